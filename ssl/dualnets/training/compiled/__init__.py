"""Steps of training compiled for a CPU, one member at a time in a core's cache.

- `pairs`, `pairs_kernel`: a loss of pairs by plain SGD: when it is supported, and the kernel
- `siamese`, `siamese_kernel`: a Siamese method by SGD, likewise
- `blocks`, `heads`: the layers of a network and of a head, forward and backward
- `members`: the parameters of all members side by side, and their work on threads
- `unmodified`: which networks the kernels compute exactly
"""
