"""Steps of training fused for CUDA by Triton: one program trains one member through many steps.

For ensembles of about as many members as a GPU runs programs at once, some hundreds. Triton is optional:
where it is not installed, and for what is not supported here, training runs in plain torch.

- `launch`: whether there is Triton for a network, and calls of its kernels
- `table`: the layers of a network and its heads as numbers, and the sizes of tiles
- `pairs`, `pairs_kernel`: a loss of pairs by plain SGD
- `siamese`, `siamese_kernel`: a Siamese method by SGD
- `layers`, `heads`: the layers and their BatchNorm, forward and backward

What is supported, and the equations, are those of `compiled/`; both give the same numbers up to the
order of sums.

What bounds it on an H100 (132 processors, 67 TFLOP/s, 3.35 TB/s, 50 MB of cache), by counting: nothing
was timed. Tree networks of depth 5 with 10 units, batch 128, float32; BYOL with heads 32-16:

| per member and step | SimCLR, one negative | BYOL |
|---|---|---|
| products, MFLOP | 7.4: 9.0 million steps/s | 9.9: 6.8 million |
| as tiles of 16 or 32 are filled, MFLOP | 18: 3.6 million | 24: 2.8 million |
| activations written and read, MB | 2.5: 1.3 million from memory | 3.3: 1.0 million |
| leaves, KB | 12 | 8 |

A program of 128 threads has 168 registers a thread, so that a processor runs 3 of them, 396 in all. Their
activations are 263 KB (SimCLR) and 584 KB (BYOL) each, twice and five times the cache. Waiting for loads
and barriers, with 12 warps a processor, probably bounds it before any of these numbers do.
"""
