"""Networks and heads compiled for a CPU, one member at a time in a core's cache.

- `products`: the matrix products of a layer and of its gradients
- `blocks`, `heads`: the layers of a network and of a head, forward and backward
- `members`: the parameters of all members side by side, and their work on threads
- `unmodified`: which networks the kernels compute exactly
"""
