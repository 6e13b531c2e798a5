"""How good the features of a network are: probes of labels, with all of them or few, and collapse.

The features are the network's outputs in evaluation, without any head. Everything that is fitted or chosen is
so on training pictures; test pictures are only scored. An untrained network scores high, too, so its numbers
belong beside those of a trained one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from dualnets._checks import check_whole
from dualnets.images.dataset import LabelledImages
from dualnets.images.network_features import Features, chosen_pictures, features_of
from hltm.probe.metrics.collapse import Collapse
from hltm.probe.table import gap_closed
from hltm.sampling.philox import Stream, check_seed, uniform

if TYPE_CHECKING:
    import pandas as pd

RIDGES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
TEMPERATURE = 0.07  # of the votes of neighbours, arXiv 1805.01978
HELD_OUT = 5  # one of so many labelled pictures chooses the ridge
COLLAPSE = ("spread", "effective_rank")  # metrics that are no accuracies
DRAW_OF_LABELS = 1  # node in the address of which pictures are labelled


@torch.no_grad()
def evaluate(
    network: Any,
    images: LabelledImages,
    *,
    seed: int,
    initial: Any = None,
    labels: Sequence[int | None] = (None, 100),
    neighbours: int = 20,
    batch: int = 500,
    train_samples: int | None = None,
    test_samples: int | None = None,
    splits: int = 1,
) -> pd.DataFrame:
    """Accuracies of linear and nearest-neighbour probes, feature spread and effective rank, per member.

    - `linear all`, `linear 100`: ridge regression of one-hot labels on the features, in closed form, with
      the labels of all training pictures, or of 100. The features are standardised by those of all training
      pictures. The ridge is the one, of nine, that predicts a fifth of the labelled pictures, of each class
      about as many, best from the other four; then all are fitted.
    - `neighbours all`, `neighbours 100`: votes of the labelled pictures of the largest cosines c with the
      features, each with weight exp(c / 0.07) (Wu and others 2018, arXiv 1805.01978, Section 3.4).
    - `spread`, `effective_rank`: of the test pictures; see `hltm.probe.Collapse`.

    Args:
        network: of `dualnets.networks`; it is left as it was. BatchNorms that have seen no batch yet use the
            moments of 1,000 training pictures.
        images: the data set.
        seed: of which pictures are labelled.
        initial: the same network before training, for the columns `initial` and `gap_closed`.
        labels: how many training pictures have labels, balanced by class, other ones for every member and
            split; None for all of them.
        neighbours: how many vote; all that are labelled, where these are fewer.
        batch: pictures in a forward pass.
        train_samples, test_samples: use the first so many of a fixed random order; None for all.
        splits: how often pictures to label are drawn. What no split changes has split 0 alone.

    Returns:
        Columns member, split, metric, value, and n, the number of test pictures. A member of which a feature
        is not finite has NaN. With `initial` also its value, measured on the same pictures with the same
        labels, and of accuracies `gap_closed`, (value - initial) / (1 - initial): the highest that is
        possible is not known. `hltm.probe.over_members(table, by=["metric"], seed=0)` has means and
        intervals over the members.

    Raises:
        TypeError: a network or a data set of another kind, or a number that is not whole.
        ValueError: pictures of another shape than a network reads, more pictures than there are, fewer than 5
            or than two labels per class, other numbers below 1, or `initial` with other members.

    Example:
        >>> import dualnets
        >>> from dualnets.images import load
        >>> digits = load("digits")
        >>> network = dualnets.conv_net(digits, members=2, seed=0)
        >>> final = dualnets.train(network, dualnets.SimCLR(), digits, steps=5, batch=64, seed=1,
        ...                        augment=dualnets.images.parse_views("default"),
        ...                        optimizer=dualnets.SGD(lr=0.1))
        >>> table = evaluate(final.network, digits, seed=0, initial=network, splits=3)
        >>> bool(table.query("metric == 'linear all'").initial.min() > 0.8)  # untrained
        True
        >>> table.query("metric == 'linear 100' and member == 0").split.tolist()
        [0, 1, 2]
    """
    # 1. check all that was given
    check_seed(seed)
    for name, number in (("neighbours", neighbours), ("batch", batch), ("splits", splits)):
        check_whole(name, number, low=1)
    sizes = train_samples, test_samples
    train, test = chosen_pictures(network, images, *sizes)
    if initial is not None:
        chosen_pictures(initial, images, *sizes, name="initial network")
        if tuple(initial.members) != tuple(network.members):
            raise ValueError(
                f"initial must have the members {tuple(network.members)} of the network, got "
                f"{tuple(initial.members)}"
            )
    classes, there = len(images.classes), len(train.labels)
    if not isinstance(labels, tuple | list):
        raise TypeError(f"labels must be a tuple such as (None, 100), got {labels!r}")
    if there < HELD_OUT:
        raise ValueError(f"training pictures must be at least {HELD_OUT}, got {there}")
    for count in labels:
        if count is not None:
            least = max(2 * classes, HELD_OUT)
            why = f"(two for each of {classes} classes)" * (2 * classes >= HELD_OUT)
            check_whole("labels", count, low=least, unit=why)
            if count > there:
                raise ValueError(
                    f"labels must be at most the {there} training pictures, got {count}"
                )
    # 2. the features of all members, and what each of them is worth
    options = classes, labels, splits, neighbours, batch, seed

    def values(of: Any) -> list[tuple[Any, ...]]:
        return list(_members(of, features_of(of, images, train, test, batch), *options))

    import pandas as pd

    table = pd.DataFrame(values(network), columns=["member", "split", "metric", "value"])
    table["n"] = len(test.labels)
    if initial is not None:
        table["initial"] = [value for *_, value in values(initial)]
        most = (~table["metric"].isin(COLLAPSE)).map({True: 1.0, False: torch.nan})
        table["gap_closed"] = gap_closed(table.assign(ceiling=most))
    return table


def linear_accuracy(own: Features, labelled: Tensor, classes: int, held_out: Tensor) -> float:
    """The share of test pictures whose class a ridge regression on some training pictures finds.

    Args:
        own: the features.
        labelled: `(n,)` int64, the training pictures that have labels.
        classes: K.
        held_out: `(n,)` bool, those that choose the ridge.
    """
    mean, deviation = own.train.double().mean(0), own.train.double().std(0, correction=0)
    scale = torch.where(deviation > 0, 1 / deviation, 0.0)
    x = (own.train[labelled].double() - mean) * scale
    wanted = own.train_labels[labelled]
    y = functional.one_hot(wanted, classes).double()
    # the largest of the ridges that are best
    found = [
        (_correct(given, wanted[held_out]), ridge)
        for ridge, given in zip(
            RIDGES, _predicted(x[~held_out], y[~held_out], x[held_out], RIDGES), strict=True
        )
    ]
    ridge = max(found)[1]
    tested = (own.test.double() - mean) * scale
    return _correct(next(_predicted(x, y, tested, (ridge,))), own.test_labels)


def neighbour_accuracy(
    own: Features, labelled: Tensor, classes: int, neighbours: int, batch: int = 500
) -> float:
    """The share of test pictures whose class their nearest labelled training pictures vote for.

    Args:
        own, labelled, classes: as for `linear_accuracy`.
        neighbours: how many vote.
        batch: test pictures at a time.
    """
    known = functional.normalize(own.train[labelled], dim=-1).T
    votes_for = own.train_labels[labelled]
    right = 0
    for given, wanted in zip(own.test.split(batch), own.test_labels.split(batch), strict=True):
        cosines = functional.normalize(given, dim=-1) @ known
        nearest = cosines.topk(min(neighbours, len(votes_for)), dim=-1)
        votes = torch.zeros(len(given), classes, dtype=given.dtype, device=given.device)
        votes.scatter_add_(1, votes_for[nearest.indices], (nearest.values / TEMPERATURE).exp())
        right += int((votes.argmax(-1) == wanted).sum())
    return right / len(own.test_labels)


def balanced_choice(
    labels: Tensor, count: int | None, *, seed: int, member: int, split: int
) -> Tensor:
    """`(count,)` int64: pictures at random, as many of each class as of any other, in turns; None for all.

    Where a class has too few, or the classes do not divide the count, the first classes have more. A part
    of the result from its beginning is nearly balanced, too.
    """
    keys = uniform(
        len(labels), seed=seed, stream=Stream.EVALUATION, members=(member,), node=DRAW_OF_LABELS,
        view=split,
    )[0]  # fmt: skip
    order = keys.argsort(stable=True).to(labels.device)
    by_class = order[labels[order].argsort(stable=True)]
    return by_class[_turns(labels[by_class]).argsort(stable=True)][:count]


def last_fifth(labels: Tensor) -> Tensor:
    """`(n,)` bool: of each class about the last fifth of its pictures, n // 5 in all.

    Args:
        labels: `(n,)` int64, in the order of `balanced_choice`.
    """
    parts = (_turns(labels) + 0.5) / labels.bincount()[
        labels
    ]  # of a class that is before a picture
    found = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    found[parts.argsort(stable=True)[len(labels) - len(labels) // HELD_OUT :]] = True
    return found


def _turns(labels: Tensor) -> Tensor:
    """`(n,)` int64: how many of the pictures before it a picture's class has."""
    order, sizes = labels.argsort(stable=True), labels.bincount()
    begins = (sizes.cumsum(0) - sizes)[labels[order]]
    return torch.empty_like(order).scatter_(
        0, order, torch.arange(len(labels), device=labels.device) - begins
    )


def _members(
    network: Any,
    found: Features,
    classes: int,
    labels: Iterable[int | None],
    splits: int,
    neighbours: int,
    batch: int,
    seed: int,
) -> Iterator[tuple[int, int, str, float]]:
    """Member, split, metric and value."""
    for place, member in enumerate(network.members):
        own = found
        if network.stacked:
            own = found._replace(train=found.train[place], test=found.test[place])
        finite = bool(own.train.isfinite().all() and own.test.isfinite().all())
        for count in labels:
            name = "all" if count is None else str(count)
            for split in range(1 if count is None else splits):
                linear = near = torch.nan
                if finite:
                    chosen = balanced_choice(
                        own.train_labels, count, seed=seed, member=member, split=split
                    )
                    held_out = last_fifth(own.train_labels[chosen])
                    linear = linear_accuracy(own, chosen, classes, held_out)
                    near = neighbour_accuracy(own, chosen, classes, neighbours, batch)
                yield member, split, f"linear {name}", linear
                yield member, split, f"neighbours {name}", near
        values = [torch.nan, torch.nan]
        if finite:
            collapse = Collapse()
            collapse.update(own.test.T)
            spread = collapse.result()
            values = [float(spread.spread), float(spread.effective_rank)]
        for metric, value in zip(COLLAPSE, values, strict=True):
            yield member, 0, metric, value


def _predicted(x: Tensor, y: Tensor, others: Tensor, ridges: Sequence[float]) -> Iterator[Tensor]:
    """`(T, K)` predictions of `others` `(T, U)` for each ridge, fitted to `(n, U)` and `(n, K)`.

    With the means taken off: w = (x'x + ridge n)^-1 x'y.
    """
    mean = x.mean(0)
    centred = x - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    along = vectors.T @ (centred.T @ (y - y.mean(0))) / len(x)
    for ridge in ridges:
        weights = vectors @ (along / (values.clamp(min=0) + ridge)[:, None])
        yield (others - mean) @ weights + y.mean(0)


def _correct(predicted: Tensor, wanted: Tensor) -> float:
    return float((predicted.argmax(-1) == wanted).double().mean())
