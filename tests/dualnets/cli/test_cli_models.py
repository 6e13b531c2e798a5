"""Models and functions that the command is given by name: any error of theirs is one line."""

import re
import sys

import pytest
import torch
from safetensors.torch import save_file

import hltm
from dualnets.cli._models import UserCode, make_model

SOURCE = """
import sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)
    def forward(self, x):
        return self.fc(x)

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

net, number = Net(), 3
def build(): return Net()
def fails(): return 1 / 0
def leaves(): sys.exit(4)
def needs(width, *, depth): return Net()
def late(): import nowhere_at_all
def none(): return None
async def later(): return Net()
def deep(): return deep()
def long(): raise KeyError("word " * 500)
def mute(): raise Mute
def inside(): return nn.Linear("a", 3)
"""
LINE = {
    name: at
    for at, line in enumerate(SOURCE.splitlines(), 1)
    for name in re.findall(r"def (\w+)", line)
}


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets_of_mine.py").write_text(SOURCE)
    for name, source in {
        "cut_off": "def f(:\n",
        "ends": "raise SystemExit('no')",
        "lacks": "import nowhere_at_all",
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    yield UserCode()
    for name in ("nets_of_mine", "cut_off", "ends", "lacks"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "ZeroDivisionError: division by zero (nets_of_mine.py, line {})"),
        ("leaves", "SystemExit: 4 (nets_of_mine.py, line {})"),
        (
            "late",
            "ModuleNotFoundError: No module named 'nowhere_at_all' (nets_of_mine.py, line {})",
        ),
        ("deep", "RecursionError: maximum recursion depth exceeded (nets_of_mine.py, line {})"),
        ("mute", "Mute (nets_of_mine.py, line {})"),
    ],
)
def test_the_error_of_a_function_has_its_text_and_its_line(code, name, message):
    with pytest.raises(ValueError, match=r"^--model nets_of_mine") as caught:
        make_model(code, f"nets_of_mine:{name}", None)
    assert str(caught.value) == f"--model nets_of_mine:{name}: {message.format(LINE[name])}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets_of_mine:long", "KeyError: 'word word .*word ' .*line"),
        ("nets_of_mine:inside", r"TypeError: .* \(nets_of_mine.py, line"),
        (
            "nets_of_mine:needs",
            r"needs arguments \('width', 'depth'\), expected a function without",
        ),
        ("nets_of_mine:none", "made a NoneType, expected a torch module"),
        ("nets_of_mine:later", "made a coroutine, expected a torch module"),
        ("nets_of_mine:number", "nets_of_mine has no function 'number'"),
        ("nets_of_mine:" + "x" * 999, "has no function 'xxx.*…x*'"),
        ("cut_off:f", r"SyntaxError: invalid syntax \(cut_off.py, line 1\)$"),
        ("ends:f", r"SystemExit: no \(ends.py, line 1\)"),
        ("lacks:f", r"No module named 'nowhere_at_all' \(lacks.py, line 1\)"),
        ("nowhere_at_all:f", "ModuleNotFoundError: No module named 'nowhere_at_all'$"),
        ("..m:f", r"must be module:function, got '\.\.m:f'"),
        ("./nets_of_mine.py:build", "must be module:function, got './nets_of_mine.py:build'"),
        ("nets_of_mine.py:build", "is named without .py, as in 'nets_of_mine:build'"),
        ("m", "--model must be module:function, got 'm'"),
        (":f", "--model must be module:function, got ':f'"),
    ],
)
def test_what_makes_no_model_is_refused_in_one_line(code, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_model(code, name, None)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_function_of_other_arguments_is_refused_before_any_work(code):
    assert code.function("--encode", "math:sqrt", 1)(4) == 2
    assert code.function("--metrics", "builtins:print", 2) is print
    for name, shown in (("math:sqrt", "'x'"), ("nets_of_mine:build", "fewer")):
        with pytest.raises(ValueError, match=rf"needs arguments \({shown}\), .* function of 2$"):
            code.function("--metrics", name, 2)


def test_an_error_within_hltm_by_what_a_function_gave_it_is_one_line(code):
    code.function("--metrics", "nets_of_mine:none")
    with pytest.raises(ValueError, match=r"^--metrics: TypeError: "), code.errors("--metrics"):
        hltm.symmetric_binary(depth="2", seed=0)


def test_the_search_path_is_left_as_it_was(code):
    before = list(sys.path)
    for name in ("nets_of_mine:build", "lacks:f"):
        try:
            make_model(code, name, None)
        except ValueError:
            assert name == "lacks:f"
    assert sys.path == before


def test_an_interruption_is_no_error_of_the_function(code):
    with pytest.raises(KeyboardInterrupt), code.errors("--model m:f"):
        raise KeyboardInterrupt


def test_weights_as_they_are_stored(code):
    expected = make_model(code, "nets_of_mine:build", None).state_dict()
    wrapped = {f"module.{name}": values for name, values in expected.items()}
    save_file(expected, "w.safetensors")
    torch.save(expected, "w.pt")
    torch.save({"epoch": 3, "state_dict": wrapped}, "w.pth")
    twice = {f"_orig_mod.{name}": values for name, values in wrapped.items()}
    torch.save({"model": twice, "optimizer": {}}, "twice.pt")
    for path in ("w.safetensors", "w.pt", "w.pth", "twice.pt"):
        for name in ("build", "net"):
            found = make_model(code, f"nets_of_mine:{name}", path).state_dict()
            assert all(torch.equal(found[key], values) for key, values in expected.items())


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "holds nothing, expected tensors by name"),
        ([torch.zeros(2)], "holds a list, expected tensors by name"),
        ({"fc.weight": 3}, "holds 'fc.weight', expected tensors by name"),
        (
            {"fc.weight": torch.zeros(3, 8, dtype=torch.complex64), "fc.bias": torch.zeros(3)},
            "holds complex numbers in 'fc.weight', the model has real$",
        ),
        (torch.nn.Linear(2, 2), "holds Python objects, which are not unpickled"),
        ({"fc.weight": torch.zeros(3, 8)}, r"does not fit the model: 1 without weights \('fc.bias'\)$"),
        (
            {"fc.weight": torch.zeros(3, 9), "fc.bias": torch.zeros(3)},
            r"1 of another shape \('fc.weight \(3, 9\), expected \(3, 8\)'\)",
        ),
        (
            {f"layers.{at}." + "x" * 400: torch.zeros(2) for at in range(300)},
            r"2 without weights \('fc.weight', 'fc.bias'\); 300 unknown \(.* and 299 more\)",
        ),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(code, held, message):
    torch.save(held, "w.pt")
    with pytest.raises(ValueError, match=message) as caught:
        make_model(code, "nets_of_mine:build", "w.pt")
    assert len(str(caught.value)) < 300


def test_files_that_hold_no_weights(code, tmp_path):
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(b"none of these")
        with pytest.raises(ValueError, match=f"{name}: is "):
            make_model(code, "nets_of_mine:build", name)
    with pytest.raises(ValueError, match=r"expected a file named \.safetensors, \.pt or \.pth"):
        make_model(code, "nets_of_mine:build", "nets_of_mine.py")
    with pytest.raises(FileNotFoundError):
        make_model(code, "nets_of_mine:build", "none.pt")
