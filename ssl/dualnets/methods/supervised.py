"""Supervised: a linear classifier on the outputs predicts the root, any latents, or labels of pictures.

With f(x) the network's output on one view and target nodes t of K_t states each,

    L = - mean_t log softmax(W_t f(x) + b_t)[z_t],

the cross-entropy averaged over the batch and the targets: the comparison of labels with views. The view
must not redraw a target; with an augmentation that redraws nothing it is the sample itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dualnets._checks import check_kind, check_switch
from dualnets._lazy import torch
from dualnets._options import option
from dualnets.methods.protocol import (
    Batch,
    Method,
    Needs,
    State,
    TrainContext,
    address,
    output_units,
    outputs,
    strip_prefix,
    trained,
    with_prefix,
)
from dualnets.methods.source import target_classes
from dualnets.networks.heads import Head
from dualnets.optim.per_member import Group

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hltm.model.nodes import Node

PLACE = 0  # of the classifier's random numbers
TARGETS = ("root", "latents", "label")


@dataclass(frozen=True)
class Supervised(Method):
    """One network, one view of a sample, and its latents or its label as labels.

    State: `classifier.…`, one linear layer with K outputs per target, K the largest number of states
    among the targets, trained; `absent` `(S, T, K)` bool, states that a target does not have.

    Attributes:
        targets: labels: root, latents, or nodes by number or name; of pictures, label.
        bias: whether the classifier has biases.
        rates: rates of the classifier; one number each or one per member.

    Raises:
        TypeError: a value of another type.
        ValueError: targets of an unknown name or none; before training, targets that the data do
            not have or that a view may redraw.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> final = dualnets.train(network, Supervised("latents"), trees, steps=200, batch=32,
        ...                        augment=hltm.resample_leaves(0.0),
        ...                        optimizer=dualnets.SGD(lr=0.5), seed=2)
        >>> bool((final.losses < 0.6).all())  # below log 2, that of a guess
        True
    """

    targets: str | tuple[Node, ...] = option("root", flag="labels", choices=TARGETS)
    bias: bool = option(True, flag="classifier_bias")
    rates: Group = Group()  # noqa: RUF009, immutable
    per_member: ClassVar[tuple[str, ...]] = ("rates",)

    def __post_init__(self) -> None:
        given: Any = self.targets
        wrong = f"targets must be 'root', 'latents', 'label' or nodes such as (0, 1), got {given!r}"
        if not isinstance(given, str | tuple | list):
            raise TypeError(wrong)
        if isinstance(given, str) and given not in TARGETS:
            raise ValueError(wrong)
        if len(given) == 0:
            raise ValueError("supervised training needs at least one target, got none")
        if isinstance(given, list):
            object.__setattr__(self, "targets", tuple(given))
        check_switch("bias", self.bias)
        check_kind("rates", self.rates, Group, "dualnets.Group(lr=2.0)")

    @property
    def needs(self) -> Needs:
        return Needs(views=1, targets=self.targets)

    @property
    def groups(self) -> dict[str, Group]:
        return {"classifier": self.rates}

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        states = target_classes(setup.source, self.targets)
        most, own = max(states), address(network, setup)
        classifier = Head((len(states) * most,), bias=self.bias).init(
            output_units(network, setup), place=PLACE, **own
        )
        absent = torch.arange(most) >= torch.tensor(states)[:, None]  # (T, K)
        absent = absent.to(own["device"]).expand(len(own["members"]), -1, -1).contiguous()
        return with_prefix("classifier", trained(classifier)) | {"absent": absent}

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        (output,) = outputs(network, batch)
        assert batch.targets is not None
        log_probability = self.scores(state, output).log_softmax(-1)  # (S, B, T, K)
        of_labels = log_probability.gather(-1, batch.targets[..., None])
        return -of_labels.mean((1, 2, 3)), {}

    def scores(self, state: State, output: Tensor) -> Tensor:
        """`(S, B, T, K)` logits of `(S, B, U)` outputs; -inf for states that a target does not have."""
        absent = state["absent"]
        head = Head((absent.shape[1] * absent.shape[2],), bias=self.bias)
        found = head(strip_prefix(state, "classifier"), output).unflatten(-1, absent.shape[1:])
        return found.masked_fill(absent[:, None], -torch.inf)
