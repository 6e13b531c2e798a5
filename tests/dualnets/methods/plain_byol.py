"""BYOL, plainly: one sample and one direction at a time (arXiv 2006.07733, Section 3.1 and Appendix A)."""

import math

import torch
from looped_head import SEEN, strip_prefix

from dualnets import BYOL, BatchNorm, DirectPredictor, Head
from hltm.sampling.philox import Stream, uniform

SMALL = Head((6, 3), norm=BatchNorm())
BARE = Head((3,), bias=False)
CASES = {
    "default": BYOL(SMALL, SMALL),
    "no-predictor": BYOL(BARE, None),
    "no-heads": BYOL(Head(), Head()),
    "linear-predictor": BYOL(BARE, BARE, predictor_lr=3.0, predictor_weight_decay=0.1),
    "redraw-all": BYOL(SMALL, SMALL, redraw_every=2, predictor_lr=0.5),
    "redraw-top": BYOL(SMALL, SMALL, redraw_every=2, redraw="top"),
    "redraw-bottom": BYOL(
        SMALL, Head((5, 3), norm=BatchNorm(affine=True)), redraw_every=3, redraw="bottom"
    ),
    "scaled-predictor": BYOL(SMALL, SMALL, predictor_scale=0.3, redraw_every=2),
    "cosine-momentum": BYOL(SMALL, SMALL, ema_decay=0.6, ema_schedule="cosine"),
    "online": BYOL(SMALL, SMALL, target="online"),
    "online-both-branches": BYOL(SMALL, SMALL, target="online", stop_gradient=False),
    "random": BYOL(SMALL, SMALL, target="random"),
    "copy": BYOL(SMALL, SMALL, target="copy", copy_every=2),
    "squared": BYOL(SMALL, SMALL, normalized=False),
    "one-direction": BYOL(SMALL, SMALL, symmetric=False, ema_decay=0.7),
    "parts-of-batch-norm": BYOL(
        Head((6, 3), norm=BatchNorm(mean="stop"), last_norm=BatchNorm(std="off")),
        Head((5, 3), norm=BatchNorm(mean="off", std="stop")),
    ),
    "input-norm": BYOL(
        Head((6, 3), input_norm=BatchNorm()),
        Head((6, 3), norm=BatchNorm(), input_norm=BatchNorm(mean="stop")),
    ),
    "directpred": BYOL(BARE, DirectPredictor(epsilon=0.2, every=2)),
    "directcopy": BYOL(SMALL, DirectPredictor("copy", rate=0.6), normalized=False),
}


def plain_head(head, parameters, rows):
    """`(B, U)` -> `(B, U)`, unit by unit where a norm looks at the batch."""
    if head.input_norm is not None:
        SEEN.append((parameters.get("input.mean"), head.input_norm, rows.detach()))
        rows = torch.stack([plain_batch_norm(head.input_norm, unit) for unit in rows.T], dim=1)
    for layer in range(len(head.widths)):
        last = layer == len(head.widths) - 1
        rows = rows @ parameters[f"{layer}.weight"][0].T
        if head.bias:
            rows = rows + parameters[f"{layer}.bias"][0]
        norm = head.last_norm if last else head.norm
        SEEN.append((parameters[f"{layer}.weight"], norm, rows.detach()))
        if norm is not None:
            rows = torch.stack([plain_batch_norm(norm, unit) for unit in rows.T], dim=1)
            if norm.affine:
                gain, shift = (parameters[f"{layer}.{n}"][:, 0] for n in ("gain", "shift"))
                rows = rows * gain + shift
        if not last:
            rows = torch.where(rows > 0, rows, torch.zeros_like(rows))
    return rows


def plain_batch_norm(norm, unit):
    mean = sum(unit) / len(unit)
    variance = sum((x - mean) ** 2 for x in unit) / len(unit)
    if norm.mean != "off":
        unit = unit - (mean.detach() if norm.mean == "stop" else mean)
    if norm.std != "off":
        variance = variance.detach() if norm.std == "stop" else variance
        unit = unit / (variance + norm.epsilon).sqrt()
    return unit


def projections(method, f, state, views):
    head = strip_prefix(state, "projector")
    return [plain_head(method.projector, head, f(view)) for view in views]


def plain_loss(method, f, state, batch):
    both = method.symmetric or method.target == "online"
    online = projections(method, f, state, batch.views[: 1 + both])
    if method.target == "online":
        targets = online
    else:
        slow = f.with_parameters(strip_prefix(state, "target.network"))
        targets = projections(method, slow, strip_prefix(state, "target"), batch.views)
    if method.stop_gradient:
        targets = [t.detach() for t in targets]
    directions = [(0, 1), (1, 0)] if method.symmetric else [(0, 1)]
    total = torch.zeros((), dtype=torch.float64)
    for here, there in directions:
        if method.predictor is None:
            predicted = online[here]
        elif isinstance(method.predictor, DirectPredictor):
            predicted = torch.stack([state["predictor.weight"] @ z for z in online[here]])
        else:
            predicted = plain_head(method.predictor, strip_prefix(state, "predictor"), online[here])
        for p, z in zip(predicted, targets[there], strict=True):
            if method.normalized:
                total = total + 2 - 2 * (p @ z) / (p.norm() * z.norm())
            else:
                total = total + ((p - z) ** 2).sum() / 2
    return total / len(batch.views[0])


def plain_after_step(method, f, state, batch, step, setup, member, before=None):
    found = dict(state)
    if isinstance(method.predictor, DirectPredictor):
        found |= direct(method, *before, batch, step)
    if method.redraw_every and (step + 1) % method.redraw_every == 0:
        drawn = method.predictor.init(
            method.projector.widths[-1], seed=setup.seed, members=[member], place=1,
            version=(step + 1) // method.redraw_every, dtype=torch.float64,
        )  # fmt: skip
        for name, tensor in drawn.items():
            layer, top = int(name.split(".")[0]), len(method.predictor.widths) - 1
            if method.redraw == "all" or layer == {"top": top, "bottom": 0}[method.redraw]:
                scale = method.predictor_scale if name.endswith("weight") else 1
                found[f"predictor.{name}"] = scale * tensor[0]
                for kind, start in (("mean", 0), ("variance", 1), ("batches", 0)):
                    own = f"predictor.{layer}.{kind}"
                    if own in state:
                        found[own] = torch.full_like(state[own], start)
    online = {f"network.{n}": t for n, t in f.parameters.items()}
    online |= {n: t for n, t in state.items() if n.startswith("projector.")}
    for name, now in online.items():
        old = state.get(f"target.{name}")
        if old is None:  # no target, or running moments, which targets have none of
            continue
        if method.target == "ema":
            m = method.ema_decay
            if method.ema_schedule == "cosine":
                m = 1 - (1 - m) * (math.cos(math.pi * step / setup.steps) + 1) / 2
            found[f"target.{name}"] = m * old + (1 - m) * now
        elif method.target == "copy" and (step + 1) % method.copy_every == 0:
            found[f"target.{name}"] = now
    return found


def direct(method, f, state, batch, step):
    """arXiv 2102.06810, Section 5; arXiv 2110.04947."""
    own = method.predictor
    rows = torch.cat(projections(method, f, state, batch.views)).detach()
    seen = sum(torch.outer(z, z) for z in rows) / len(rows)
    correlation = state["predictor.correlation"]
    correlation = seen if step == 0 else own.rate * correlation + (1 - own.rate) * seen
    weight = state["predictor.weight"]
    if (step + 1) % own.every == 0:
        if own.rule == "copy":
            weight = correlation + own.epsilon * torch.eye(len(correlation), dtype=torch.float64)
        else:
            values, vectors = torch.linalg.eigh(correlation)
            weight = torch.zeros_like(correlation)
            for s, u in zip(values.clamp(min=0), vectors.T, strict=True):
                weight = weight + (s.sqrt() + own.epsilon * values.max()) * torch.outer(u, u)
    return {"predictor.correlation": correlation, "predictor.weight": weight}


def plain_random_target(network, setup, member):
    """The fixed random network of a member: entry k of a tensor goes where its key's rank says."""
    found = {}
    for place, (name, parameter) in enumerate(network.named_parameters()):
        own = parameter.detach()[network.members.index(member)]
        (keys,) = uniform(
            own.numel(), seed=setup.seed, stream=Stream.PREDICTOR, members=[member],
            node=2 * 256 + place,
        ).tolist()  # fmt: skip
        entries = own.flatten().tolist()
        order = sorted(range(len(entries)), key=lambda k, keys=keys: keys[k])
        shuffled = torch.tensor([entries[k] for k in order], dtype=own.dtype)
        found[name] = shuffled.view_as(own)
    return found
