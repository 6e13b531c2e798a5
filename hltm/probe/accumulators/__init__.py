"""Streaming sums over batches of activations, kept on the device; no activations are stored.

- `checks`: finite activations, shapes that fit, states in range; states as indicators
- `conditional`: means of units given the state of each target
- `correlation`: correlations of units with targets
- `histogram`: counts of (bin of a unit, state of a target)
- `moments`: means and covariances of two sets of features together
- `units`: range, mean and variance of every unit, which units are dead, and batches without overflow
"""
