"""Results compare by content, never raise, and print in one line."""

import dataclasses
import pickle
import re
from typing import NamedTuple

import torch

import hltm
from hltm._results import by_content

TREE = hltm.symmetric_binary(depth=3, polarity=0.8, seed=0)
LEAVES = TREE.sample(20, seed=0).leaves


@by_content
class Found(NamedTuple):
    value: torch.Tensor
    label: str = "a"


def results():
    return [
        TREE.posterior(LEAVES), TREE.posterior(LEAVES[:1], nodes=[0]), TREE.most_likely(LEAVES),
        TREE.ceiling([0, 1]), TREE.joint(), TREE.posterior(LEAVES[:0]),
    ]  # fmt: skip


def test_equal_results_are_equal_and_others_are_not():
    for i, (a, b) in enumerate(zip(results(), results(), strict=True)):
        assert a == b
        assert (a != b) is False
        assert hash(a) == hash(b)
        assert pickle.loads(pickle.dumps(a)) == a
        for j, other in enumerate(results()):
            assert (a == other) is (i == j)
            assert (a != other) is (i != j)
        for other in (None, 1, "posterior", tuple(a), [*a], a[0]):
            assert (a == other) is False
            assert (a != other) is True
        first, second = a  # still a tuple
        assert first is a[0]
        assert second is a[1]
    assert len({*results(), *results()}) == len(results())
    assert results()[2] in results()


def test_entries_shapes_types_and_nan_count():
    nan = torch.tensor([1.0, torch.nan])
    assert Found(nan) == Found(nan.clone())
    assert Found(nan) != Found(torch.tensor([1.0, 2.0]))
    assert Found(nan) != Found(nan.double())
    assert Found(torch.ones(2)) != Found(torch.ones(2, 1))
    assert Found(torch.ones(2)) != Found(torch.ones(2), "b")
    assert Found(torch.ones(2)) != Found("b")
    assert Found(torch.ones(2, requires_grad=True)) == Found(torch.ones(2))
    assert Found(torch.ones(2, dtype=torch.uint16)) == Found(torch.ones(2, dtype=torch.uint16))


def test_printing_is_short():
    post, one, best, bound, joint, empty = map(repr, results())
    assert post == "Posterior(marginals=(20, 15, 2) float64, log_evidence=(20,) float64)"
    assert one.startswith("Posterior(marginals=[[[")
    assert best == "MostLikely(states=(20, 15) int64, log_probability=(20,) float64)"
    assert bound.startswith("Ceiling(value=[0.")
    assert bound.endswith("standard_error=[0., 0.])")
    assert joint == "Joint(states=(32768, 15) int64, probability=(32768,) float64)"
    assert empty == "Posterior(marginals=(0, 15, 2) float64, log_evidence=(0,) float64)"
    assert repr(Found(torch.ones(1), "<b>")) == "Found(value=[1.], label='<b>')"


def test_notebooks_show_a_table():
    for found in results():
        shown = found._repr_html_()
        assert shown.startswith("<table><tr><th>" + type(found).__name__)
        assert shown.count("<tr>") == 1 + len(found)
    assert "0 … 1" in TREE.posterior(LEAVES)._repr_html_()
    few = TREE.posterior({"1": 0}, nodes=["0", "1", "2", "3", "4"])._repr_html_()
    assert re.search(r">\[\[\[0\.\d+ *0\.\d+ *\]\n +\[1\. +0\. *\]\n", few), few  # a line per node
    assert "none is finite" in Found(torch.full((99,), torch.nan))._repr_html_()
    assert "&lt;b&gt;" in Found(torch.ones(1), "<b>")._repr_html_()


def test_numbers_that_are_nan_are_equal():
    assert Found(torch.ones(1), float("nan")) == Found(torch.ones(1), float("nan"))
    assert hash(Found(torch.ones(1), float("nan"))) == hash(Found(torch.ones(1), float("nan")))
    assert Found(torch.ones(1), float("nan")) != Found(torch.ones(1), 0.0)


def test_all_results_of_a_probe_compare_and_print():
    class Reader:
        def activations(self, leaves):
            return {"leaves": leaves.float()}

    def mine(activations, states):
        return (activations.double().T @ states.double()).abs()

    tree = hltm.symmetric_binary(depth=2, polarity=0.8, seed=0)

    def probed():
        options = {"samples": 200, "seed": 1, "lags": 2, "metrics": ["correlation", mine]}
        layer = hltm.probe.probe_layers(Reader(), tree, **options)["leaves"]
        effect = hltm.probe.intervention_effect(Reader(), tree, samples=40, seed=1)
        parts = [layer, layer.scores["mine"], layer.scores["correlation"].matched, effect]
        details = layer.details
        parts += [details, details.specific, details.readout, details.collapsed]
        return [*parts, effect.layers["leaves"], hltm.probe.Replacement(LEAVES > 0, LEAVES)]

    first, again = probed(), probed()
    assert first[1] != first[1]._replace(null=first[1].null + 1)
    assert first[3] != first[3]._replace(table=first[3].table[1:])
    assert first[0] != dataclasses.replace(first[0], samples=199)
    for a, b in zip(first, again, strict=True):
        assert a == b
        assert (a != b) is False
        assert hash(a) == hash(b)
        assert (a == None) is False  # noqa: E711
        shown = repr(a)
        assert "\n" not in shown
        assert "tensor(" not in shown
        assert a._repr_html_().startswith("<table><tr><th>" + type(a).__name__)
    assert "latent_ceilings" not in repr(first[0])  # they are computed when they are read
    assert "kind=mine" in repr(first[1])
    assert "table=36 rows" in repr(first[3])
