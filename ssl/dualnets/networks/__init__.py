"""Networks: ensembles that read the leaves of their trees and show their layers.

The contract with everyone else (`network.Network`); S, B and X are members, samples and leaves:

- `members`: S addresses; member m is the same network in an ensemble of any size, a function of the
  seed and its address.
- `stacked`: whether public arrays have the S axis in front; without it there is one member.
- `inputs`: X, the leaves it reads; `features`: the numbers that the first layer makes of them, one
  for a leaf of two states and K for one of K > 2.
- `depth`: L, the level of the output. `device`, `dtype`: of the weights.
- `network(leaves)`: `(S, B, U)` outputs of `(S, B, X)` states, differentiable.
- `activations(leaves)`: level -> pre-activations, as probes read them: `(S, B, V, U)` where each
  latent of the level, in the tree's own order, has a block of units, `(S, B, U)` where all share a
  layer. They are those of evaluation, and nothing changes when they are asked for.
- `rectify(activations)`, of networks that know it: the same as the layers above read it.
- `batch_dependent`: whether, in training, a sample's output depends on the batch it comes in; a
  method then passes each view alone.
- Every parameter and every buffer that training changes has S in front, and no member's output
  depends on another's, so an ensemble trains as its members would alone.
"""
