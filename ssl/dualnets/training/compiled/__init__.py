"""Steps of training compiled for a CPU, one member at a time in a core's cache.

- `pairs`, `pairs_kernel`: a loss of pairs: when it is supported, and the kernel
- `siamese`, `siamese_kernel`, `running_moments`: a Siamese method, likewise
- `tables`: where the layers find parameters and gradients

The layers are those of `dualnets.networks.compiled`, the updates those of `dualnets.optim.compiled`.
"""
