"""One member's loss in every method, and what follows its update, in JAX.

All is batch-last, `(X, B)` and `(U, B)`, which was the fastest of four layouts on a CPU. A loss takes
(method, trained, kept, batch, normalize) and returns the loss and what `after` needs; `after` takes
(method, trained, kept, carried) and returns trained and kept.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp, relu, softplus

from contenders.task import BATCH


def tree(parameters, leaves, prefix="network"):
    """`(U, B)` outputs of `(X, B)` leaves."""
    hidden, layer = leaves.astype(parameters[f"{prefix}.weights.0"].dtype), 0
    while (name := f"{prefix}.weights.{layer}") in parameters:
        weight = parameters[name]  # (V, U_out, U_in)
        if layer > 0:
            hidden = relu(hidden)
        shares = hidden.reshape(weight.shape[0], weight.shape[2], -1)
        hidden = jnp.einsum("voi,vib->vob", weight, shares)
        layer += 1
    return hidden[0]


def head(parameters, name, inputs, last_norm=False):
    """`(U, P, B)` of `(U, P, B)`; each of the P passes has batch statistics of its own."""
    layer, hidden = 0, inputs
    while f"{name}.{layer}.weight" in parameters:
        if layer > 0:
            hidden = relu(standardized(hidden))
        hidden = jnp.einsum("oi,ipb->opb", parameters[f"{name}.{layer}.weight"][0], hidden)
        if (bias := f"{name}.{layer}.bias") in parameters:
            hidden = hidden + parameters[bias][0][:, None, None]
        layer += 1
    return standardized(hidden) if last_norm else hidden


def standardized(values):
    """Mean 0 and variance 1 over the batch."""
    centred = values - values.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)


def direction(values):
    """Of length 1 over the units, the first axis."""
    return values * jax.lax.rsqrt(jnp.maximum(jnp.square(values).sum(0), 1e-24))


def passes(parameters, views, prefix="network"):
    """`(U, P, B)` outputs of every view."""
    output = tree(parameters, jnp.concatenate(views, axis=1), prefix)
    return output.reshape(output.shape[0], -1, BATCH)


def nothing(method, trained, kept, carried):
    """After an update nothing is left to do."""
    return trained, kept


def moved(target, online, decay):
    return target + (1 - decay) * (online - target)


# Contrastive losses


def contrastive(criterion, method, trained, kept, batch, normalize):
    output = passes(trained, batch["views"])
    output = direction(output) if normalize else output
    return criterion(method.criterion, *jnp.moveaxis(output, 1, 0)), {}


def _gap(anchor, positive, negative):
    near, far = (jnp.square(anchor - other).sum(0) / 2 for other in (positive, negative))
    return near - far


def infonce(loss, *outputs):
    return loss.temperature * softplus(_gap(*outputs) / loss.temperature).mean()


def simple(loss, *outputs):
    return _gap(*outputs).mean()


def triplet(loss, *outputs):
    return loss.temperature * softplus((_gap(*outputs) + loss.margin) / loss.temperature).mean()


def batchwise_nce(loss, anchor, positive, negative):
    gap = jnp.square(anchor - negative).mean() - jnp.square(anchor - positive).mean()
    return -jax.nn.sigmoid(gap / loss.temperature)


def ntxent(loss, anchor, positive):
    """Of outputs of length 1, as in the paper's pseudocode."""
    both = jnp.concatenate([anchor, positive], axis=1)
    scores = both.T @ both / loss.temperature
    scores = jnp.where(jnp.eye(2 * BATCH, dtype=bool), -jnp.inf, scores)
    near = (anchor * positive).sum(0) / loss.temperature
    return loss.temperature * (logsumexp(scores, axis=1) - jnp.tile(near, 2)).mean()


# Siamese methods


def _cosine(one, two):
    lengths = [jax.lax.rsqrt(jnp.maximum(jnp.square(v).sum(0), 1e-16)) for v in (one, two)]
    return (one * two).sum(0) * lengths[0] * lengths[1]


def byol(method, trained, kept, batch, normalize):
    targets = head(kept, "target.projector", passes(kept, batch["views"], "target.network"))
    projections = head(trained, "projector", passes(trained, batch["views"]))
    predicted = head(trained, "predictor", projections)
    return (2 - 2 * _cosine(predicted, targets[:, ::-1])).mean(-1).sum(), {}


def byol_after(method, trained, kept, carried):
    return trained, {
        name: moved(own, trained[name.removeprefix("target.")], method.ema_decay)
        if name.startswith("target.")
        else own
        for name, own in kept.items()
    }


def simsiam(method, trained, kept, batch, normalize):
    projections = head(trained, "projector", passes(trained, batch["views"]), last_norm=True)
    predicted = head(trained, "predictor", projections)
    return -_cosine(predicted, jax.lax.stop_gradient(projections)[:, ::-1]).mean(), {}


# Methods with queues, prototypes, memories


def moco(method, trained, kept, batch, normalize):
    first, second = batch["views"]
    query = direction(tree(trained, first))
    key = direction(tree(kept, second, "key"))
    near = (query * key).sum(0)
    scores = jnp.concatenate([near[None], kept["queue"] @ query]) / method.temperature
    return (logsumexp(scores, axis=0) - scores[0]).mean(), {"keys": key.T}


def moco_after(method, trained, kept, carried):
    found = {
        name: moved(own, trained[name.replace("key", "network")], method.ema_decay)
        for name, own in kept.items()
        if name.startswith("key.")
    }
    queue = jnp.concatenate([carried["keys"], kept["queue"]])[: method.queue]
    return trained, {**kept, **found, "queue": queue}


def swav(method, trained, kept, batch, normalize):
    z = direction(passes(trained, batch["views"]))
    scores = jnp.einsum("ku,upb->kpb", trained["prototypes"], z)
    share = jnp.exp(jax.lax.stop_gradient(scores) / method.epsilon)
    for _ in range(method.iterations):
        share = share / share.sum(2, keepdims=True)
        share = share / share.sum(0, keepdims=True)
    log_p = log_softmax(scores / method.temperature, axis=0)
    return -(share[:, ::-1] * log_p).sum(0).mean(), {}


def swav_after(method, trained, kept, carried):
    return {**trained, "prototypes": direction(trained["prototypes"].T).T}, kept


def pirl(method, trained, kept, batch, normalize):
    first, second = jnp.moveaxis(direction(passes(trained, batch["views"])), 1, 0)
    places, negatives = batch["places"], kept["negatives"]
    memory, others = kept["bank"][places].T, kept["bank"][negatives]
    itself = negatives[:, None] == places

    def nce(own):
        near = (own * memory).sum(0) / method.temperature
        far = jnp.where(itself, -jnp.inf, others @ own / method.temperature)
        mass = logsumexp(far, axis=0)
        return (softplus(mass - near) + softplus(far - mass).sum(0)).mean()

    loss = method.weight * nce(second) + (1 - method.weight) * nce(first)
    return loss, {"places": places, "first": first}


def pirl_after(method, trained, kept, carried):
    bank, places = kept["bank"], carried["places"]
    momentum = method.bank_momentum
    average = momentum * bank[places].T + (1 - momentum) * carried["first"]
    random, now = jax.random.split(kept["random"])
    negatives = jax.random.randint(now, kept["negatives"].shape, 0, bank.shape[0])
    return trained, {
        **kept,
        "bank": bank.at[places].set(direction(average).T),
        "negatives": negatives.astype(kept["negatives"].dtype),
        "random": random,
    }


# Methods without negatives, and with labels


def barlow_twins(method, trained, kept, batch, normalize):
    z = standardized(head(trained, "projector", passes(trained, batch["views"])))
    correlation = z[:, 0] @ z[:, 1].T / BATCH
    diagonal = jnp.diagonal(correlation)
    rest = correlation - jnp.diag(diagonal)
    loss = jnp.square(1 - diagonal).sum() + method.off_diagonal * jnp.square(rest).sum()
    return loss, {}


def vicreg(method, trained, kept, batch, normalize):
    z = head(trained, "projector", passes(trained, batch["views"]))
    centred = z - z.mean(-1, keepdims=True)
    covariance = jnp.einsum("upb,vpb->puv", centred, centred) / (BATCH - 1)
    variance = jnp.diagonal(covariance, axis1=1, axis2=2)
    hinge = relu(method.spread - jnp.sqrt(variance + method.epsilon)).mean(-1).sum()
    rest = covariance * (1 - jnp.eye(z.shape[0], dtype=z.dtype))
    loss = method.invariance * jnp.square(z[:, 0] - z[:, 1]).mean() + method.variance * hinge
    return loss + method.covariance * jnp.square(rest).sum() / z.shape[0], {}


def supervised(method, trained, kept, batch, normalize):
    scores = head(trained, "classifier", passes(trained, batch["views"]))[:, 0]
    log_p = log_softmax(scores, axis=0)
    labels = batch["targets"][0].astype(jnp.int32)
    return -jnp.take_along_axis(log_p, labels[None], axis=0).mean(), {}


def teacher_student(method, trained, kept, batch, normalize):
    wanted = passes(kept, batch["views"], "teacher")
    found = head(trained, "readout", passes(trained, batch["views"]))
    return jnp.square(found - wanted).sum(0).mean() / 2, {}


METHODS: dict[str, Any] = {
    "simclr": (partial(contrastive, infonce), nothing),
    "simple": (partial(contrastive, simple), nothing),
    "triplet": (partial(contrastive, triplet), nothing),
    "ntxent": (partial(contrastive, ntxent), nothing),
    "batchwise-nce": (partial(contrastive, batchwise_nce), nothing),
    "byol": (byol, byol_after),
    "simsiam": (simsiam, nothing),
    "moco": (moco, moco_after),
    "swav": (swav, swav_after),
    "pirl": (pirl, pirl_after),
    "barlow-twins": (barlow_twins, nothing),
    "vicreg": (vicreg, nothing),
    "supervised": (supervised, nothing),
    "teacher-student": (teacher_student, nothing),
}
