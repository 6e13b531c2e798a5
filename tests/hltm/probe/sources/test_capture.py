"""Activations of any torch module by name: sides, runs, items of what parts return, patterns."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hltm.probe import capture


class Plain(nn.Module):
    """Two layers, a nonlinearity in place, batch normalisation and a part that never runs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.spare = nn.Linear(2, 2)

    def forward(self, x):
        return self.body(self.act(self.norm(self.first(x))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Plain()


X = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))


def test_pre_and_post_activations_are_those_of_the_formulas(model):
    found = capture(model, X, ["first", "norm", "act", "body.0", "body"])
    model.eval()
    first = X @ model.first.weight.T + model.first.bias
    norm = model.norm(first)
    assert list(found) == ["first", "norm", "act", "body.0", "body"]
    assert torch.allclose(found["first"], first)
    assert torch.allclose(found["norm"], norm)  # the ReLU in place came later
    assert (found["norm"] < 0).any()
    assert found["act"].equal(found["norm"].relu())
    assert torch.allclose(found["body"], model(X))
    before = capture(model, X, "body.0", side="input")
    assert before["body.0"].equal(found["act"])


def test_the_model_is_left_as_it_was(model):
    model.train()
    model.act.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = capture(model, X, ["first"])
    assert not found["first"].requires_grad
    assert model.training
    assert model.norm.training
    assert not model.act.training
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())


def test_hooks_go_even_when_the_model_fails(model):
    with pytest.raises(RuntimeError):
        capture(model, torch.zeros(3, 99), ["first"])
    assert not any(part._forward_hooks for part in model.modules())
    assert model.training


def test_wrong_names_list_the_right_ones(model):
    with pytest.raises(
        ValueError, match=r"no layer 'frist' \(did you mean 'first'\?\); it has 'first', 'norm'"
    ):
        capture(model, X, ["frist"])
    with pytest.raises(ValueError, match="layer 'spare' did not run"):
        capture(model, X, ["first", "spare"])
    with pytest.raises(ValueError, match="layers is empty; the model has 'first'"):
        capture(model, X, [])
    with pytest.raises(ValueError, match="side must be 'output' or 'input', got 'pre'"):
        capture(model, X, ["first"], side="pre")


def test_one_run_of_a_part_that_runs_twice():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act)
    with pytest.raises(
        ValueError, match="'1' runs more than once, 2 times: choose a run with call=0"
    ):
        capture(model, X, ["1"])
    first = model[0](X).relu()
    assert capture(model, X, ["1"], call=0)["1"].equal(first)
    assert capture(model, X, ["1"], call={"1": -1})["1"].equal(model(X))
    assert capture(model, X, ["1"], call=1, side="input")["1"].equal(model[2](first))
    with pytest.raises(ValueError, match="'1' runs 2 times, so there is no call=2"):
        capture(model, X, ["1"], call=2)


@dataclass
class Found:
    hidden: torch.Tensor
    parts: tuple


class Nested(nn.Module):
    """Returns a dataclass, a mapping or a tuple; takes named and nested arguments."""

    def __init__(self, kind="dataclass"):
        super().__init__()
        self.kind = kind
        self.body = nn.Linear(4, 3)

    def forward(self, x, *, scale=None):
        h = self.body(x)
        if self.kind == "tensor":
            return h
        inner = (h[:, :1], {"last": h[:, 1:]})
        return {"dataclass": Found(h, inner), "mapping": {"hidden": h, "parts": inner}}.get(
            self.kind, (h, inner)
        )


@pytest.mark.parametrize(
    ("kind", "names"),
    [("dataclass", "hidden parts"), ("mapping", "hidden parts"), ("tuple", "0 1")],
)
def test_items_of_what_a_part_returns(kind, names):
    model, (hidden, parts) = Nested(kind), names.split()
    inside = (
        rf"select one of \[{hidden}\] \(9, 3\), \[{parts}\]\[0\] \(9, 1\), \[{parts}\]\[1\]\[last\]"
    )
    with pytest.raises(ValueError, match=inside):
        capture(model, X, [""])
    h = model.body(X)
    shown = capture(model, X, [f"[{hidden}]", f"[{parts}][0]", f"[{parts}][1][last]", "body"])
    assert torch.cat(list(shown.values())[1:3], 1).equal(h)
    assert shown[f"[{hidden}]"].equal(h)
    path = tuple(int(x) if x.isdigit() else x for x in (parts, "1"))
    first = (*path[:1], 0)
    assert capture(model, X, ["", "body"], select=first)[""].equal(h[:, :1])
    assert capture(model, X, [""], select={"": 0})[""].equal(h)  # by place in all of them
    chosen = capture(model, X, ["", "body"], select={"": lambda _: h + 1})
    assert chosen[""].equal(h + 1)
    assert chosen["body"].equal(h)
    with pytest.raises(ValueError, match=r"has no \[nothing\], expected one of"):
        capture(model, X, [""], select={"": "nothing"})
    with pytest.raises(ValueError, match=r"select names no layer 'body', expected ''"):
        capture(model, X, [""], select={"body": 0})


def test_a_tensor_is_not_taken_apart_by_a_choice_for_all_layers():
    model = Nested("tensor")
    assert capture(model, X, [""], select=0)[""].shape == (9, 3)
    with pytest.raises(ValueError, match="has no "):
        capture(model, X, [""], select={"": 0})


class InPlace(nn.Module):
    """A block that changes its first argument, which may be named or inside of a tuple."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first = nn.Linear(4, 4)
        self.block = self.Add()

    class Add(nn.Module):
        def forward(self, x, nested=None):
            (x[0] if isinstance(x, tuple) else x).add_(100)
            return x

    def forward(self, x):
        h = self.first(x)
        if self.how == "named":
            return self.block(x=h)
        return self.block((h, 1))[0] if self.how == "nested" else self.block(h)


@pytest.mark.parametrize(
    ("how", "select"), [("plain", None), ("named", None), ("named", "x"), ("nested", (0, 0))]
)
def test_the_input_of_a_part_that_works_in_place_is_what_it_took_in(how, select):
    model = InPlace(how)
    shown = capture(
        model,
        X,
        ["block", "first"],
        side="input",
        select={"block": select or 0} if select else None,
    )
    assert shown["block"].equal(model.first(X))
    assert shown["first"].equal(X)
    relu = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2))
    assert capture(relu, X, "1", side="input")["1"].equal(relu[0](X))
    assert capture(relu, X, "0")["0"].equal(relu[0](X))


def test_patterns_stand_for_the_parts_that_can_be_read():
    model = nn.Sequential(Plain(), nn.Flatten(), nn.LSTM(5, 3))
    assert list(capture(model, X, ["0.body.*", "0.s*", "?"])) == ["0.body.0", "0.body.1", "0", "1"]
    assert list(capture(model, X, ["?[0]"], select=None)) == ["2[0]"]
    with pytest.raises(ValueError, match=r"none of '0.spare' runs once and returns a tensor"):
        capture(model, X, ["0.sp*"])
    with pytest.raises(ValueError, match=r"the model has no layer '9\*'; it has '0', '0.first'"):
        capture(model, X, ["9*"])
    with pytest.raises(ValueError, match="layers must be names of parts, got 3"):
        capture(model, X, [3])
    names = nn.ModuleDict({"1": nn.Linear(4, 2), "01": nn.Linear(4, 3)})

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = names

        def forward(self, x):
            return self.parts["1"](x), self.parts["01"](x)

    shown = capture(Both(), X, ["parts.1", "parts.01"])
    assert [tuple(v.shape) for v in shown.values()] == [(9, 2), (9, 3)]


def test_several_and_named_arguments():
    model = nn.Bilinear(4, 4, 2)
    assert capture(model, (X, X), [""])[""].equal(model(X, X))
    assert capture(model, {"input1": X, "input2": X}, [""])[""].equal(model(X, X))


def test_parts_of_compiled_and_fused_models_run_as_modules():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    assert capture(compiled, X, ["0"])["0"].equal(model[0](X))
    inner = nn.Sequential(torch.compile(model, backend="eager"), nn.Tanh())
    assert capture(inner, X, ["0._orig_mod.0"])["0._orig_mod.0"].equal(model[0](X))
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    assert capture(layer, X[None], ["linear1"])["linear1"].shape == (1, 9, 8)
    assert torch.backends.mha.get_fastpath_enabled()
