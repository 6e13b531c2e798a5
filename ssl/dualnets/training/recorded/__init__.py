"""Steps that are recorded once and then repeated, without autograd and modules.

- `capture`: which steps may be recorded, and the gradients of a step as a list of operations
- `simplified`: that list without what changes nothing
- `repeated`: that list as generated code; `linked_layers`: its layers called without a dispatcher
- `interpreter`: most of them as rows of a table, run by one compiled call; `rows` and `calls` write these
- `graphs`: a step as one CUDA graph
"""
