"""When an update is an operator on its weight: where Kᵀ w = f up to a constant.

Kᵀ w = f (docs/theory.md, Equation 1.3) holds where f is homogeneous of degree 1 in w: a ReLU network
without biases at or above the layer and with a plain output. Updates are made of differences of two
outputs, so a constant f - Kᵀ w, such as a bias of the top layer seen from that layer's weight, does
no harm: it drops out of every difference.
"""

from __future__ import annotations

import torch

from dualnets.theory.updates.connection import Connection


def check_operator_form(found: Connection) -> None:
    """Raise unless Kᵀ w = f up to a constant, on which writing updates as operators on w rests.

    What must be small is the spread of f - Kᵀ w over the samples, compared with that of f. Where all
    samples are the same one, no spread can distinguish a constant from a part of f that varies, so
    there Kᵀ w = f itself is required. The check covers differences of outputs at these samples alone:
    samples whose outputs are subtracted from each other must be checked together.

    Raises:
        ValueError: Kᵀ w misses f by more than rounding. The error names by how much and, where it can
            be found, why: biases at or above the layer, a normalised output, edges that skip the layer.
    """
    outputs = found.outputs_S  # (S, B, n)
    scaled = found.transposed_S(found.weight_S)  # Kᵀ w, (S, B, n)
    inputs = found.inputs if found.stacked else found.inputs[None]
    same = (inputs == inputs[:, :1]).flatten(1).all(1)  # (S,) one distinct sample
    miss = outputs - scaled
    constant = miss[:, :1].where(~same.view(-1, 1, 1), torch.zeros_like(miss[:, :1]))
    missed, length = (miss - constant).flatten(1).norm(dim=1), outputs.flatten(1).norm(dim=1)
    spread = (outputs - outputs[:, :1]).flatten(1).norm(dim=1).where(~same, length)
    # Differences of outputs are known only to the rounding of the outputs themselves.
    rounding = torch.finfo(outputs.dtype).eps
    allowed = rounding**0.5 * spread + 100 * rounding * length
    if bool((missed <= allowed).all()):
        return
    worst = int((missed - allowed).argmax())
    unscaled = float(scaled[worst].norm()) <= 1e-3 * float(length[worst])
    why = "; ".join(_reasons(found, unscaled)) or (
        "the output is not proportional to the weight's scale"
    )
    relative = float(missed[worst] / spread[worst]) if spread[worst] > 0 else float("inf")
    how = (
        f"which misses by {relative:.2g} of |f| at the one distinct sample, where a constant cannot be "
        "distinguished from f"
        if bool(same[worst])
        else f"which misses, beyond a constant, by {relative:.2g} of the outputs' spread"
    )
    raise ValueError(
        f"the operator form of an update needs Kᵀ w = f for weight {found.name!r}, {how}: {why}. "
        "Use the form with f (form='outputs'), which always holds"
    )


def _reasons(found: Connection, unscaled: bool) -> list[str]:
    """What in this network can break Kᵀ w = f."""
    reasons = []
    if unscaled:  # Euler: K^T w = 0 where f does not change with the scale of w
        reasons.append(
            "scaling the weight leaves the output as it is, so Kᵀ w = 0 (a normalised output)"
        )
    biases = [name for name, _ in found.network.named_parameters() if "bias" in name.lower()]
    if biases:
        reasons.append(
            f"the network has biases ({', '.join(biases)}), which must all lie below the layer"
        )
    if getattr(found.network, "wiring", None) is not None:
        reasons.append("edges of the tree that skip the layer carry a part of f past its weight")
    if found.is_part_of_layer:
        reasons.append("one block's weight carries only the part of f that flows through it")
    return reasons
