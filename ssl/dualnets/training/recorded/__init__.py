"""Steps that are recorded once and then repeated, without autograd and modules.

- `capture`: which steps may be recorded, and the gradients of a step as a list of operations
- `simplified`: that list without what changes nothing
- `repeated`: that list as generated code, by the `plan` of what is done once, and where results lie
- `linked_layers`: its layers called without a dispatcher
- `interpreter`: most of them as rows of a table, run by one compiled call; `rows`, `operations` and `calls`
  write these
- `graphs`: a step as one CUDA graph
"""
