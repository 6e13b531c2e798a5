"""Numbers free of scale are the same for activations of any scale, and right for any common offset."""

import pytest
import torch

from hltm.probe import (
    Collapse,
    Correlation,
    CorrelationRatio,
    LinearCKA,
    Selectivity,
    Specificity,
)

GENERATOR = torch.Generator().manual_seed(0)
Z = torch.randint(2, (3, 1500), generator=GENERATOR)
MIX = torch.randn(6, 3, generator=GENERATOR)
BASE = (MIX @ Z.float() + torch.randn(6, 1500, generator=GENERATOR)).relu()
BASE[5] = 1 / 3  # dead
POSTERIOR = torch.rand(4, 1500, generator=GENERATOR).double() + Z[0]


def numbers(a):
    """All numbers of a layer that do not depend on its scale, and its selectivities."""
    pairs = [Correlation(), CorrelationRatio(), Selectivity(), Specificity([-1, 0, 0], lags=19)]
    cka, collapse = LinearCKA(), Collapse()
    for part in torch.arange(1500).split(600):
        for metric in pairs:
            metric.update(a[:, part], Z[:, part])
        cka.update(a[:, part], POSTERIOR[:, part])
        collapse.update(a[:, part])
    correlation, ratio, selectivity, specific = pairs
    found = specific.result(torch.tensor([0, 1, 2]))
    parts = [correlation.result(), ratio.result(), cka.result(), cka.null(), *collapse.result()]
    parts += [found.partial[1:], found.partial_null[1:], found.rival_null, found.rival_strength]
    return torch.cat([part.double().flatten() for part in parts]), selectivity.result()


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, s) for s in (1e-37, 1e-22, 1e19, 1e30, 2e37)]
    + [(torch.float64, s) for s in (1e-300, 1e-160, 1e160, 1e300)],
)
def test_no_scale_changes_a_number(dtype, scale):
    found, selectivity = numbers(BASE.to(dtype) * scale)
    expected, one = numbers(BASE.double())
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(selectivity / scale, one, atol=1e-6)
    # float32 products are as good as float64 ones
    assert expected[:18].abs().max() > 0.3


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_float32_holds_what_float64_makes_of_the_same_numbers(offset):
    a = BASE + offset
    assert torch.allclose(numbers(a)[0], numbers(a.double())[0], atol=1e-5)
    exact, plain = numbers(BASE.double() + offset), numbers(BASE.double())
    # the spread of directions does depend on an offset: places 18 * 2 + 2
    same = torch.arange(len(plain[0])) != 38
    assert torch.allclose(exact[0][same], plain[0][same], atol=1e-6)
    assert torch.allclose(exact[1], plain[1], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1, 100])
def test_half_precision_is_as_good_as_its_numbers(dtype, scale):
    a = (BASE * scale).to(dtype)
    found, expected = numbers(a)[0], numbers(a.float())[0]
    assert torch.allclose(found, expected, atol=1e-6)
    # rounding of bfloat16 is 1/256 of a number
    assert torch.allclose(found, numbers(BASE)[0], atol=2e-2 if dtype == torch.bfloat16 else 2e-3)
