"""Contrastive losses: pure functions of outputs, one value per member (docs/theory.md, Section 3).

Symbols: r(u, v) = 1/2 ||u - v||^2; an anchor a, its positive + (another view of the same sample) and H
negatives k (views of other samples); r_+ = r(a, +), r_k = r(a, k); τ the temperature.

The gradient of a loss of distances is that of Σ_k β_k (r_+ - r_k) with the pair weights
β_k = -∂L/∂r_k held fixed, so its effect on training is determined by its pair weights, which `pairs`
returns. Besides the usual losses, whose weights follow from a formula, there are losses whose weights are
given as a function of distance. All but BatchwiseNCE carry the factor τ, which libraries usually drop:
their learning rates differ by it.

Losses and gradients are those of the outputs' differences to rounding, however far all outputs lie from 0:
no distance is the difference of two squared lengths, and no small share of a softmax is 1 less the others.
Numbers of less than 32 bits are converted to float32 first.

Outputs are `(S, B, U)`, negatives `(S, H, B, U)`; a loss is the mean over the batch, `(S,)`. A loss is
one class, registered under the word that selects it on the command line, in one of these files:

- `anchors`: each anchor's own positive and negatives: simple, triplet, InfoNCE
- `batches`: a batch as a whole: NT-Xent, batch-wise NCE
- `spectral`: inner products instead of distances
- `weighted`: weights that are given, not derived
- `wrappers`: another loss with an additional term, or with its weights held fixed

They stand on `loss` (what a loss is) and `pair_weights` (distances and β). The words have the order in which
the files are imported here.
"""

from dualnets.methods._plain import distance as distance
from dualnets.methods.losses.anchors import InfoNCE as InfoNCE
from dualnets.methods.losses.anchors import PairLoss as PairLoss
from dualnets.methods.losses.anchors import Simple as Simple
from dualnets.methods.losses.anchors import Triplet as Triplet
from dualnets.methods.losses.batches import BatchwiseNCE as BatchwiseNCE
from dualnets.methods.losses.batches import NTXent as NTXent
from dualnets.methods.losses.loss import LOSSES as LOSSES
from dualnets.methods.losses.loss import Loss as Loss
from dualnets.methods.losses.pair_weights import Pairs as Pairs
from dualnets.methods.losses.pair_weights import PairWeighted as PairWeighted
from dualnets.methods.losses.pair_weights import weighted_gap as weighted_gap
from dualnets.methods.losses.spectral import SpectralContrastive as SpectralContrastive
from dualnets.methods.losses.weighted import CovarianceObjective as CovarianceObjective
from dualnets.methods.losses.weighted import ExponentialWeights as ExponentialWeights
from dualnets.methods.losses.weighted import GivenWeights as GivenWeights
from dualnets.methods.losses.weighted import InverseDistanceWeights as InverseDistanceWeights
from dualnets.methods.losses.wrappers import Detached as Detached
from dualnets.methods.losses.wrappers import IntraPair as IntraPair
