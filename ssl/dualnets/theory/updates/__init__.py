"""Updates of one weight by contrastive losses: Theorems 1 to 4, exact, estimated and matrix-free.

`connection` is K, on which all rests. `update` has Theorem 1 (`pair_update`) and the predicted and actual
updates of a loss, `loss_slopes` Theorem 2, `covariance` Theorem 3, `pairwise` Theorem 4. Below them lie
`operators` (what both operators share), `operator_form` (where an update is an operator on its weight),
`enumeration`, `views` and `image_views` (expectations as sums, and from samples), `any_network` and
`fitting` (what networks and trees must be). docs/theory.md, Sections 1 to 3.
"""
