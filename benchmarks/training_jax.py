"""The same step in JAX: one member's step under vmap, many steps under lax.scan, all of it jitted."""

from __future__ import annotations

import os
from functools import partial

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from training_task import BATCH, DECAY, EMA, MOMENTUM, TEMPERATURE, Task

jax.config.update("jax_default_matmul_precision", "float32")  # as torch's products


class Jax:
    """Members side by side; data drawn for many steps by hltm and handed over."""

    def __init__(self, task: Task) -> None:
        self.task = task
        given = {name: _over(tensor) for name, tensor in task.initial().items()}
        target = {n: a for n, a in given.items() if n.startswith("target.")}
        trained = {n: a for n, a in given.items() if n not in target}
        velocity = {n: jnp.zeros_like(a) for n, a in trained.items()}
        self.now = (trained, target, velocity)
        step = _simclr_step if task.method == "SimCLR" else _byol_step
        layers = len(task.network.weights)
        self._run = jax.jit(partial(_scan, partial(step, layers)), donate_argnums=0)

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train."""
        drawn = self.task.data.draw(self.task.needs, first_step, steps)
        parts = [*drawn.views] + ([] if drawn.negatives is None else [drawn.negatives])
        self.now = self._run(self.now, [_over(part) for part in parts])
        jax.block_until_ready(self.now)

    def tensors(self) -> dict[str, Tensor]:
        """What has been trained, by the names of ours."""
        found = {**self.now[0], **self.now[1]}
        return {name: torch.from_numpy(np.array(array)) for name, array in found.items()}


def _over(tensor: Tensor) -> jax.Array:
    """To JAX, on the same device."""
    if tensor.is_cuda:
        return jax.dlpack.from_dlpack(tensor.contiguous())
    return jnp.asarray(tensor.numpy())


def _scan(step, now, parts):
    """Steps one after the other on `(S, X, steps * B)` leaves of every pass."""

    def by_step(part):
        return jnp.moveaxis(part.reshape(*part.shape[:2], -1, BATCH), 2, 0)

    def body(now, leaves):
        return jax.vmap(step)(now, leaves), None

    return jax.lax.scan(body, now, [by_step(part) for part in parts])[0]


def _tree(parameters, layers, leaves, prefix=""):
    """`(U, B)` outputs of `(X, B)` leaves; batch-last was the fastest of four layouts here."""
    hidden = leaves.astype(parameters[f"{prefix}network.weights.0"].dtype)
    for layer in range(layers):
        weight = parameters[f"{prefix}network.weights.{layer}"]  # (V, U_out, U_in)
        if layer > 0:
            hidden = jax.nn.relu(hidden)
        shares = hidden.reshape(weight.shape[0], weight.shape[2], -1)
        hidden = jnp.einsum("voi,vib->vob", weight, shares)
    return hidden[0]


def _head(parameters, name, inputs):
    """`(U, passes, B)` of `(U, passes, B)`; every pass has batch statistics of its own."""

    def linear(layer, values):
        weight, bias = (parameters[f"{name}.{layer}.{part}"][0] for part in ("weight", "bias"))
        return jnp.einsum("oi,ipb->opb", weight, values) + bias[:, None, None]

    hidden = linear(0, inputs)
    mean = hidden.mean(-1, keepdims=True)
    variance = jnp.square(hidden - mean).mean(-1, keepdims=True)
    return linear(1, jax.nn.relu((hidden - mean) * jax.lax.rsqrt(variance + 1e-5)))


def _simclr_step(layers, now, leaves):
    trained, target, velocity = now

    def loss(parameters):
        output = _tree(parameters, layers, jnp.concatenate(leaves, axis=1))
        output = output / jnp.maximum(jnp.sqrt(jnp.square(output).sum(0)), 1e-12)
        anchor, positive, negative = jnp.split(output, 3, axis=1)
        near, far = (jnp.square(anchor - other).sum(0) / 2 for other in (positive, negative))
        return TEMPERATURE * jax.nn.softplus((near - far) / TEMPERATURE).mean()

    gradients = jax.grad(loss)(trained)
    trained = {n: p - 0.1 * gradients[n] for n, p in trained.items()}
    return trained, target, velocity


def _byol_step(layers, now, leaves):
    trained, target, velocity = now
    both = jnp.concatenate(leaves, axis=1)

    def projections(parameters, prefix=""):
        output = _tree(parameters, layers, both, prefix)
        return _head(parameters, f"{prefix}projector", output.reshape(-1, 2, BATCH))

    targets = projections(target, "target.")[:, ::-1]

    def loss(parameters):
        predicted = _head(parameters, "predictor", projections(parameters))
        lengths = [
            jax.lax.rsqrt(jnp.maximum(jnp.square(v).sum(0), 1e-16)) for v in (predicted, targets)
        ]
        cosine = (predicted * targets).sum(0) * lengths[0] * lengths[1]
        return (2 - 2 * cosine).mean(-1).sum()

    gradients = jax.grad(loss)(trained)
    velocity = {n: MOMENTUM * v + gradients[n] + DECAY * trained[n] for n, v in velocity.items()}
    trained = {n: p - 0.03 * velocity[n] for n, p in trained.items()}
    target = {
        n: t + (1 - EMA) * (trained[n.removeprefix("target.")] - t) for n, t in target.items()
    }
    return trained, target, velocity
