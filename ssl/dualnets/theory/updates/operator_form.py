"""When an update is an operator on its weight: where Kᵀ w = f up to a constant (theory, Section 1)."""

from __future__ import annotations

import torch

from dualnets.theory.updates.connection import Connection


def check_operator_form(found: Connection) -> None:
    """Raise unless Kᵀ w = f up to a constant, on which the rewriting of updates as operators rests.

    A constant, such as a bias of the top layer seen from that layer's weight, drops out of every
    difference of two outputs, and updates are made of those. So what must be small is the spread of
    f - Kᵀ w over the samples, against that of f. Where all samples are one, no spread can tell a
    constant from a part of f that varies, and Kᵀ w = f itself is asked for. A difference of outputs
    at *other* samples is not vouched for: check the samples that it is made of together.

    Raises:
        ValueError: by how much the identity fails and, where it can be told, why: biases at or
            above the layer, a normalised output, edges that skip the layer.
    """
    outputs = found.outputs if found.stacked else found.outputs[None]
    scaled = found.transposed_S(found._weight)
    inputs = found.inputs if found.stacked else found.inputs[None]
    alone = (inputs == inputs[:, :1]).flatten(1).all(1)  # (S,) one distinct sample
    miss = outputs - scaled
    constant = miss[:, :1].where(~alone.view(-1, 1, 1), torch.zeros_like(miss[:, :1]))
    missed, length = (miss - constant).flatten(1).norm(dim=1), outputs.flatten(1).norm(dim=1)
    spread = (outputs - outputs[:, :1]).flatten(1).norm(dim=1).where(~alone, length)
    # differences of outputs are known to the outputs' own rounding alone
    rounding = torch.finfo(outputs.dtype).eps
    allowed = rounding**0.5 * spread + 100 * rounding * length
    if bool((missed <= allowed).all()):
        return
    worst = int((missed - allowed).argmax())
    reasons = []
    if float(scaled[worst].norm()) <= 1e-3 * float(length[worst]):
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
    if found.size < found._entries.shape[1]:
        reasons.append("one block's weight carries only the part of f that flows through it")
    why = "; ".join(reasons) or "the output is not proportional to the weight's scale"
    relative = float(missed[worst] / spread[worst]) if spread[worst] > 0 else float("inf")
    how = (
        f"which misses by {relative:.2g} of |f| at the one distinct sample, where no constant can be told"
        if bool(alone[worst])
        else f"which misses, beyond a constant, by {relative:.2g} of the outputs' spread"
    )
    raise ValueError(
        f"the operator form of an update needs Kᵀ w = f for weight {found.name!r}, {how}: {why}. "
        "Use the form with f (form='outputs'), which always holds"
    )
