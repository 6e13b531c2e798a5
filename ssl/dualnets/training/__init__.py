"""Training of ensembles, the same whether it runs at once, in parts, compiled or resumed.

- `trajectory`: `trajectory` and `train`, the functions that users call
- `steps`: which code makes the steps: compiled, fused, recorded, or `eager`, the reference in plain torch
- `compiled/`: many steps of a member for a CPU; `fused/`: for CUDA
- `recorded/`: one step as a list of operations, or as a CUDA graph
- `state`: what changes in a training and what does not
- `rows`: the rows that every step reads, from any source, and epochs over a fixed data set
- `data`: the rows of trees
- `draw_ahead`: these rows drawn by the CPU for a device, one span ahead
- `memory`: what memory a training takes, known from shapes alone
- `ensemble`: an ensemble in parts, by the memory and for threads; `threads`: parts on threads
- `checkpoint`: the state of a training as files; `fingerprint`: which training wrote them
"""
