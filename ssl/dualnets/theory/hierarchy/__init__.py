"""Hierarchical latent trees: selectivity, the top covariance operator, lucky units, two layers.

`tree_operator` has the operator in closed form, `latent_inputs` the exact moments of the inputs of
untrained units, `lucky` the laws of the best of them, `forecast` which unit will follow a latent best,
`two_layer` the population dynamics of two layers and `hidden_groups` what its hidden units see.
docs/theory.md, Sections 4 and 5.
"""
