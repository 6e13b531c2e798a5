"""Training of ensembles, the same whether it runs at once, in parts, compiled or resumed.

- `trajectory`: `trajectory` and `train`, the functions that users call
- `steps`: draw, forward, loss, backward, update; compiled where that is supported
- `compiled/`: the same steps for a CPU
- `data`: the rows that every step reads: fresh ones, or a fixed data set in epochs
- `memory`: what memory a training takes, known from shapes alone
- `ensemble`: members that do not fit the memory together, part by part
- `checkpoint`: the state of a training as files; `fingerprint`: which training wrote them
"""
