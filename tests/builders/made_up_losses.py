"""Made-up tables of the experiments on predicted leaves: losses, distances, readouts, noise."""

import numpy as np
from made_up_variants import stacked

from dualnets.experiments.prediction._denoise import ALONE, CHANGE, NETWORK, SIZE, TOGETHER
from dualnets.experiments.prediction._loss_rules import DISTANCE, LOSS, READOUT

FILTERED = np.array([0.8, 0.4, 0.2, 0.0])  # losses of filtered trees in excess of the Bayes loss
STEPS = (0, *(round(2 ** (k / 2)) for k in range(2, 27)))


def in_steps(times, rest=0.0):
    """Excess loss `(S, T)` over STEPS: falls from level to level around times, and rests between them.

    Args:
        times: `(S, 3)` updates around which the loss falls from the filtered loss of level l to the next.
        rest: share of the fall that is even in the logarithm of updates, without steps.
    """
    at = np.log(np.maximum(STEPS, 1))[None, :, None]
    fallen = 1 / (1 + np.exp(-4 * (at - np.log(times)[:, None])))  # (S, T, 3)
    steep = FILTERED[0] - (fallen * -np.diff(FILTERED)).sum(-1)
    even = FILTERED[0] * (1 - at[..., 0] / at.max())
    return (1 - rest) * steep + rest * even


def course(times=(8.0, 90.0, 1000.0), *, trees=12, final=None, rest=0.0, noise=0.05, layers=None,
           nearest=None, poor=None, variant="masked"):  # fmt: skip
    """The rows of one training.

    Args:
        times: as in `in_steps`, of all trees.
        trees: the members.
        final: excess loss at the last step, in place of the curve's own.
        rest, noise: as in `in_steps`; of the logarithm of times, tree by tree.
        layers: level -> the layer, of three, that reads it first; none are read without.
        nearest: the order in which levels are nearest, in place of 0, 1, 2, 3.
        poor: a leaf with half of what can be learnt not learnt.
    """
    rng = np.random.default_rng(0)
    own = np.array(times) * np.exp(rng.normal(0, noise, (trees, 3)))
    excess = in_steps(own, rest)
    if final is not None:
        excess[:, -1] = final + rng.normal(0, 0.002, trees)
    made, left = [], {"cell": variant, "symbols": 6, "variant": variant, "member": np.arange(trees)}
    order = nearest or (0, 1, 2, 3)
    for t, step in enumerate(STEPS):
        now = left | {"step": step, "n": 100}
        for leaf in range(4):
            loss = 0.5 + excess[:, t] + (0.4 if leaf == poor else 0.0)
            made.append(now | {
                "level": 3, "node": f"leaf {leaf}", "metric": LOSS, "value": loss,
                "initial": 0.5 + excess[:, 0], "null": 1.3, "ceiling": 0.5,
            })  # fmt: skip
        for place, level in enumerate(order):
            apart = excess[:, t] if level == 3 else np.abs(excess[:, t] - FILTERED[place])
            made.append(now | {
                "level": level, "node": "leaves", "metric": DISTANCE, "value": apart,
                "initial": apart, "null": FILTERED[level], "ceiling": 0.0,
            })  # fmt: skip
        if layers and step in (STEPS[0], STEPS[-1]):
            for level, layer in layers.items():
                for k in (1, 2, 3):
                    value = np.where(k >= layer, 0.9, 0.3) * (step > 0) + rng.normal(0, 0.01, trees)
                    made.append(now | {
                        "level": level, "node": f"layer {k}", "metric": READOUT, "value": value,
                        "initial": 0.1, "null": 0.02, "ceiling": 1.0,
                    })  # fmt: skip
    return stacked(made)


def denoised(shift=0.0, *, apart=0.0, trees=12, noise=(0.1, 0.3, 0.6), share=0.95):
    """The cells of denoisers at levels of noise.

    Args:
        shift: of the network's transition.
        apart: what the network's correlations differ from the exact ones by.
        trees: the members.
        noise: levels.
        share: of the way to the Bayes loss.
    """
    rng, made = np.random.default_rng(0), []
    for t in noise:
        left = {"cell": f"{t}", "augment": f"flip-leaves:{t}", "variant": f"noise {t}",
                "member": np.arange(trees)}  # fmt: skip
        for step in (0, 10):
            now = left | {"step": step, "n": 100}
            for leaf in range(2):
                reached = 0.4 - 0.3 * share + rng.normal(0, 0.002, trees)
                made.append(now | {
                    "level": 2, "node": f"leaf {leaf}", "metric": LOSS, "initial": 0.7, "null": 0.4,
                    "ceiling": 0.1, "value": reached if step else 0.7,
                })  # fmt: skip
            for level in (0, 1, 2):
                made.append(now | {
                    "level": level, "node": "leaves", "metric": DISTANCE, "value": 0.1 + 0.1 * level,
                    "initial": 0.3, "null": 0.3 - 0.15 * level, "ceiling": 0.0,
                })  # fmt: skip
            for by, moved, more in (
                (NETWORK, shift, apart),
                (ALONE, 0.0, 0.0),
                (TOGETHER, -0.05, 0.1),
            ):
                size = 1 + 1 / (1 + np.exp(-20 * (t - moved - 0.3))) + rng.normal(0, 0.005, trees)
                made.append(
                    now | {"level": 2, "node": by, "metric": SIZE, "value": size, "initial": 1.0}
                )
                for level in (1, 2):
                    value = (size - 1) / level / 2 + more
                    made.append(now | {
                        "level": level, "node": by, "metric": CHANGE, "value": value, "initial": 0.0,
                    })  # fmt: skip
    return stacked(made)
