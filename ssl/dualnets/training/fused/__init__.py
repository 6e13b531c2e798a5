"""Steps of training fused for CUDA by Triton: one program trains one member through many steps.

For ensembles of about as many members as a GPU runs programs at once. Triton is optional: where it is
not installed, and for what is not supported here, training runs in plain torch.

- `launch`: whether there is Triton for a network, and calls of its kernels
- `table`: the layers of a network and its heads as numbers, and the sizes of tiles
- `pairs`, `pairs_kernel`: a loss of pairs by plain SGD
- `siamese`, `siamese_kernel`: a Siamese method by SGD
- `layers`: the layers, forward and backward

What is supported, and the equations, are those of `compiled/`; both give the same numbers up to the
order of sums.
"""
