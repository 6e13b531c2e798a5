"""Optimisers of ensembles: every rate may differ per member.

- `optimizers`: SGD, Adam, AdamW, LARS: frozen settings, and rules that update tensors by name
- `schedule`: the schedule of a learning rate
- `compiled`, `update_kernel`: the same updates compiled for a CPU
- `per_member`: rates that are one number, or one number per member
"""
