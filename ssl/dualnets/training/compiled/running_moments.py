"""Running moments of a head's BatchNorms, compiled for the CPU."""

from __future__ import annotations

from dualnets.networks.compiled.blocks import BATCH_NORM
from dualnets.networks.compiled.norms import FAST
from hltm._compile import inner


@inner(fastmath=FAST)
def update_running_moments(layers, smallest, moments, batch, running, batches):  # type: ignore[no-untyped-def]
    """Move running moments towards those of an update's passes, m <- m + step (new - m).

    The step is 1 / (batches seen) until it is as small as the momentum, as in
    `networks.heads.Head.update_running_stats`.

    Args:
        layers: of the head, as in `blocks`.
        smallest: `(layers,)`, the momentum of each.
        moments: `(2, units of all layers, passes)`, means, and sums of squares around them; their mean over
            the passes is what counts.
        batch: B of each pass.
        running: `(2, units of all layers)`, changed: mean and unbiased variance.
        batches: `(layers,)` int64, changed: how many updates were seen.
    """
    kind = running.dtype.type
    share = kind(1) / kind(moments.shape[2])
    row = 0
    for layer in range(len(layers.layout)):
        units = layers.layout[layer, 1]
        if layers.layout[layer, 3] == BATCH_NORM:
            batches[layer] += 1
            step = max(kind(1) / kind(batches[layer]), smallest[layer])
            for u in range(row, row + units):
                centre, squares = kind(0), kind(0)
                for i in range(moments.shape[2]):
                    centre += moments[0, u, i]
                    squares += moments[1, u, i]
                variance = squares / kind(batch - 1)  # unbiased
                running[0, u] += step * (centre * share - running[0, u])
                running[1, u] += step * (variance * share - running[1, u])
        row += units
