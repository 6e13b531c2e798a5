"""From pictures to features: the outputs of a network, in evaluation and without any head, with labels."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualnets._checks import check_kind, check_network, check_whole
from dualnets.images.dataset import LabelledImages, Pictures
from dualnets.images.rows import fixed_order
from dualnets.images.standardised import standardised
from dualnets.methods.source import check_shape
from dualnets.networks.image_network import ImageNetwork
from dualnets.training.ensemble import MEMORY

MOMENTS_OF = 1000  # pictures whose moments the BatchNorms of an untrained network use
MAPS_AT_ONCE = 6  # of a ResNet-18, as large as those of its first convolution


class Features(NamedTuple):
    """The features of an ensemble, or of one network, with the labels of the pictures.

    Attributes:
        train, test: `(S, N, U)` and `(S, T, U)`, in the network's dtype, at least float32; `(N, U)` and
            `(T, U)` of a network without an S axis.
        train_labels, test_labels: `(N,)` and `(T,)` int64.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def features(
    network: Any,
    images: LabelledImages,
    *,
    batch: int = 500,
    train_samples: int | None = None,
    test_samples: int | None = None,
) -> Features:
    """The features of training and test pictures, which `evaluate` probes, for probes of your own.

    Pictures are standardised by mean and deviation of each channel of the training pictures, as `train` does
    it; nothing is augmented. The network is run in evaluation.

    Args:
        network: of `dualnets.networks`; it is left as it was. BatchNorms that have seen no batch yet use the
            moments of 1,000 training pictures.
        images: the data set.
        batch: pictures in a forward pass.
        train_samples, test_samples: the first so many of a fixed random order; None for all, in their order.

    Raises:
        TypeError: a network or a data set of another kind, or a number that is not whole.
        ValueError: pictures of another shape than the network reads, more pictures than there are, or numbers
            below 1.

    Example:
        >>> import dualnets, hltm
        >>> from dualnets.images import load
        >>> digits = load("digits")
        >>> found = features(dualnets.conv_net(digits, members=2, seed=0), digits, train_samples=1000)
        >>> found.train.shape, found.train_labels.shape, found.test.shape
        (torch.Size([2, 1000, 80]), torch.Size([1000]), torch.Size([2, 500, 80]))
        >>> collapse = hltm.probe.Collapse()
        >>> collapse.update(found.test.transpose(1, 2))
        >>> collapse.result().spread.shape
        torch.Size([2])
    """
    check_whole("batch", batch, low=1)
    train, test = chosen_pictures(network, images, train_samples, test_samples)
    return features_of(network, images, train, test, batch)


def chosen_pictures(
    network: Any,
    images: LabelledImages,
    train_samples: int | None,
    test_samples: int | None,
    name: str = "network",
) -> tuple[Pictures, Pictures]:
    """The training and the test pictures for a network; arguments and errors are those of `features`.

    Args:
        name: of the network in errors.
    """
    check_network(name, network)
    check_kind("images", images, LabelledImages, "dualnets.images.load('digits')")
    if network.inputs != images.inputs:
        raise ValueError(
            f"the pictures have {images.inputs} numbers, the {name} reads {network.inputs}"
        )
    check_shape(network, images)
    train = _first("train_samples", images.train, train_samples)
    return train, _first("test_samples", images.test, test_samples)


@torch.no_grad()
def features_of(
    network: Any, images: LabelledImages, train: Pictures, test: Pictures, batch: int
) -> Features:
    """The features of some pictures of a data set; see `features`."""
    twin = _with_moments(network, images, batch)
    device, found = next(twin.parameters()).device, []
    for part in (train, test):
        outputs = [twin(leaves) for leaves in _leaves(twin, images, part.images, batch)]
        whole = torch.cat(outputs, dim=int(network.stacked))
        found.append(whole.to(torch.promote_types(whole.dtype, torch.float32)))
        found.append(torch.from_numpy(part.labels).to(device))
    return Features(*found)


def _leaves(
    network: Any, images: LabelledImages, pictures: np.ndarray, batch: int
) -> Iterator[Tensor]:
    """`(S, B, X)`, or `(B, X)`: batches of pictures `(N, C, H, W)` uint8 as the network reads them."""
    device = next(network.parameters()).device
    for low in range(0, len(pictures), batch):
        given = torch.tensor(np.ascontiguousarray(pictures[low : low + batch]), device=device)
        leaves = standardised(images, given.float().div_(255)).flatten(1)
        yield leaves.expand(len(network.members), -1, -1) if network.stacked else leaves


def _with_moments(network: Any, images: LabelledImages, batch: int) -> Any:
    """A copy for evaluation; BatchNorms that have seen no batch yet get the moments of training pictures."""
    twin = copy.deepcopy(network)
    counts = [own for name, own in twin.named_buffers() if name.endswith("batches")]
    if any(bool((own == 0).all()) for own in counts):
        chosen = images.train.images[fixed_order(len(images.train.labels))[:MOMENTS_OF]]
        if _pass_bytes(twin, len(chosen)) > MEMORY:
            twin.take_moments(list(_leaves(twin, images, chosen, batch)))
        else:  # the same moments in one pass, where `take_moments` needs one for every layer
            twin.train()(next(_leaves(twin, images, chosen, len(chosen))))
    return twin.eval()


def _pass_bytes(network: Any, pictures: int) -> int:
    """About the memory of a pass, measured as six times the first convolution's maps; else small."""
    if not isinstance(network, ImageNetwork):
        return 0
    _, height, width = network.shape
    maps = network.members_per_part * network.blocks[0].channels * height * width
    return MAPS_AT_ONCE * maps * pictures * network.weights[0].element_size()


def _first(name: str, pictures: Pictures, count: int | None) -> Pictures:
    """The first so many pictures of a fixed random order; all of them, as they are, for None."""
    if count is None:
        return pictures
    there = len(pictures.labels)
    if check_whole(name, count, low=1) > there:
        raise ValueError(f"{name} must be at most {there}, got {count}")
    chosen = fixed_order(there)[:count]
    return Pictures(pictures.images[chosen], pictures.labels[chosen])
