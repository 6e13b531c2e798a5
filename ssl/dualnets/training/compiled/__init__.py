"""Steps of training compiled for a CPU, one member at a time in a core's cache.

- `pairs`, `pairs_kernel`: a loss of pairs by plain SGD: when it is supported, and the kernel
- `siamese`, `siamese_kernel`: a Siamese method by SGD, likewise

The layers are those of `dualnets.networks.compiled`.
"""
