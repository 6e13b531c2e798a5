"""The same step in JAX: one member's step under vmap, many steps under lax.scan, all of it jitted."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from contenders.jax_methods import METHODS
from contenders.task import BATCH, Task

jax.config.update("jax_default_matmul_precision", "float32")  # as torch's products
Arrays = dict[str, jax.Array]


class Jax:
    """Members side by side; data drawn for many steps by hltm and handed over."""

    def __init__(self, task: Task) -> None:
        self.task = task
        given = {name: _over(tensor) for name, tensor in task.initial().items()}
        trained = {name: given.pop(name) for name in task.trained()}
        given["random"] = jax.random.split(jax.random.key(0), task.members)
        optimizer = OPTIMIZERS[task.optimizer]
        zeros = {name: jnp.zeros_like(own) for name, own in trained.items()}
        memory = {slot: {n: z.copy() for n, z in zeros.items()} for slot in ("first", "second")}
        self.now = (trained, given, memory, jnp.zeros(task.members))
        loss, after = METHODS[task.method]
        method, settings = task.config.method, task.config.optimizer

        def step(now: Any, batch: Any) -> Any:
            trained, kept, memory, count = now
            gradients, carried = jax.grad(
                lambda own: loss(method, own, kept, batch, task.network.normalize), has_aux=True
            )(trained)
            updated = {
                name: optimizer(settings, name, own, gradients[name], memory, count)
                for name, own in trained.items()
            }
            trained = {name: own for name, (own, _, _) in updated.items()}
            memory = {
                slot: {name: own[place] for name, own in updated.items()}
                for place, slot in enumerate(("first", "second"), start=1)
            }
            return *after(method, trained, kept, carried), memory, count + 1

        axes = {"views": 0, "targets": 0, "places": None}
        steps = jax.vmap(step, in_axes=(0, axes))

        def run(now: Any, drawn: Any) -> Any:
            batches = jax.tree.map(_by_step, drawn)
            return jax.lax.scan(lambda now, batch: (steps(now, batch), None), now, batches)[0]

        self._run = jax.jit(run, donate_argnums=0)

    def train(self, first_step: int, steps: int) -> None:
        """Draw and train."""
        drawn = self.task.data.draw(self.task.needs, first_step, steps)
        parts = [*drawn.views] + ([] if drawn.negatives is None else [drawn.negatives])
        given = {
            "views": [_over(part) for part in parts],
            "targets": None if drawn.targets is None else _over(drawn.targets),
            "places": None if drawn.places is None else _over(drawn.places),
        }
        self.now = self._run(self.now, given)
        jax.block_until_ready(self.now)

    def tensors(self) -> dict[str, Tensor]:
        """What has been trained, by the names of ours."""
        found = {
            name: own for name, own in {**self.now[0], **self.now[1]}.items() if name != "random"
        }
        return {name: torch.from_numpy(np.array(own)) for name, own in found.items()}

    def check(self) -> None:
        """Raise RuntimeError where a member is not finite."""
        if not all(bool(jnp.isfinite(own).all()) for own in self.now[0].values()):
            raise RuntimeError(f"members of {self.task.method} have diverged")


def _over(tensor: Tensor) -> jax.Array:
    """To JAX, on the same device."""
    if tensor.is_cuda:
        return jax.dlpack.from_dlpack(tensor.contiguous())
    return jnp.asarray(tensor.numpy())


def _by_step(part: jax.Array) -> jax.Array:
    """`(steps, S, X, B)` of `(S, X, steps * B)`; steps in front of anything drawn."""
    return jnp.moveaxis(part.reshape(*part.shape[:-1], -1, BATCH), -2, 0)


def _sgd(given: Any, name: str, w: jax.Array, g: jax.Array, memory: Any, count: jax.Array) -> Any:
    velocity = given.momentum * memory["first"][name] + g + given.weight_decay * w
    return w - given.lr * velocity, velocity, memory["second"][name]


def _adamw(given: Any, name: str, w: jax.Array, g: jax.Array, memory: Any, count: jax.Array) -> Any:
    first = given.beta1 * memory["first"][name] + (1 - given.beta1) * g
    second = given.beta2 * memory["second"][name] + (1 - given.beta2) * jnp.square(g)
    corrected = first / (1 - given.beta1 ** (count + 1))
    root = jnp.sqrt(second / (1 - given.beta2 ** (count + 1))) + given.epsilon
    return w - given.lr * (corrected / root + given.weight_decay * w), first, second


def _lars(given: Any, name: str, w: jax.Array, g: jax.Array, memory: Any, count: jax.Array) -> Any:
    if not name.endswith("bias"):
        size, slope = (jnp.sqrt(jnp.square(own).sum()) for own in (w, g))
        local = given.trust * size / (slope + given.weight_decay * size)
        g = (g + given.weight_decay * w) * local
    velocity = given.momentum * memory["first"][name] + given.lr * g
    return w - velocity, velocity, memory["second"][name]


OPTIMIZERS: dict[str, Callable[..., Any]] = {"sgd": _sgd, "adamw": _adamw, "lars": _lars}
