"""Networks: ensembles that take the leaves of their trees and return outputs and activations of layers.

The interface that all other parts rely on (`network.Network`); S, B, X, V and U are members, samples,
leaves, nodes and units:

- `members`: S addresses; member m is the same network in an ensemble of any size, a function of the
  seed and its address.
- `stacked`: whether public arrays have the S axis in front; without it there is one member.
- `inputs`: X, the number of leaves; `features`: the number of inputs of the first layer, one for a leaf of
  two states and K for one of K > 2, or K for every leaf that is read one-hot.
- `depth`: L, the level of the output. `device`, `dtype`: of the weights.
- `network(leaves)`: `(S, B, U)` outputs of `(S, B, X)` states, differentiable.
- `activations(leaves)`: level -> pre-activations, for probes: `(S, B, V, U)` where each latent of the
  level, in the tree's own order, has a block of units, `(S, B, U)` where all share a layer. They are those
  of evaluation, and computing them changes nothing.
- `run_with(leaves, replace)`, where a network has it: the output of evaluation where in the layers that
  `replace` names some units of these activations have other values, and all above reads those.
- `rectify(activations)`, where a network has it: the same values as the layers above receive them.
- `positions(leaves)`, where a network reads leaves as tokens (`sequence_network`): `(S, B, X, U)`, an output
  at each leaf, of which `network(leaves)` is the mean; where it is `causal`, the output at a leaf depends on
  the leaves before it alone. Its activations are `(S, B, X, U)`, too, with a block of units at each leaf.
- `reads_missing`: whether it can read that a leaf of two states is missing: as a token, or one-hot as zeros.
- `batch_dependent`: whether, in training, a sample's output depends on the other samples of its batch; a
  method then passes each view separately.
- Every parameter and every buffer that training changes has S in front, and no member's output
  depends on another's, so an ensemble trains as its members would alone.
"""
