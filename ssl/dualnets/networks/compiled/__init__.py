"""Networks and heads compiled for a CPU, one member at a time in a core's cache.

From the inside out:

- `products`: the matrix products of a layer and of its gradients, in vector instructions
- `norms`, `blocks`: the layers of one member, forward and backward
- `ensembles`, `passes`, `memory`: those of all members, on threads, without autograd
- `operation`, `plain`: an operation of autograd, and the same in plain torch
- `network_pass`, `head_pass`: a `BlockNetwork` and a `Head` by this operation
- `structure`, `conditions`, `unmodified`: what the kernels have to know, and where they are exact
- `members`: parameters of all members side by side, for the compiled training
"""
