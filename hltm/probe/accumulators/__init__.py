"""Streaming sums over batches of activations on the device; two of them keep up to 8,192 rows.

- `cells`: a cell for every value that comes often, equal shares of all others; mid-ranks
- `checks`: finite activations, shapes that fit, states in range; states as indicators
- `chosen_rows`: a random choice of the rows of a stream
- `conditional`: means of units given the state of each target
- `correlation`: correlations of units with targets
- `histogram`: counts of (cell of a unit, state of a target)
- `moments`: means and covariances of two sets of features together
- `shifted`: correlations of units with targets of other rows at many shifts
- `units`: range, mean and variance of every unit, which units are dead, and batches without overflow
"""
