"""Activations in files: every format, names and shapes as they are, and damaged files in one line."""

import io
import os
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from mutants import check_reader
from safetensors.torch import save_file

from dualnets.cli import _foreign_files
from dualnets.cli._activations import read
from dualnets.cli._foreign_files import UnreadableError

A = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
B = (A[:, :2] > 0).astype("i8")
FORMATS = ["npz", "packed.npz", "npy", "safetensors", "pt", "csv", "parquet"]


def written(path):
    """The file of a format, with the layers that should be read from it."""
    both = {"fc/1": A, "2": B}
    if path.name.endswith("packed.npz"):
        np.savez_compressed(path, **both)
    elif path.suffix == ".npz":
        np.savez(path, **both)
    elif path.suffix == ".npy":
        np.save(path, A)
    elif path.suffix in (".pt", ".safetensors"):
        save = torch.save if path.suffix == ".pt" else save_file
        save({name: torch.from_numpy(values) for name, values in both.items()}, path)
    else:
        table = pd.DataFrame(A, columns=["u", "v", "w"])
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    several = path.suffix in (".npz", ".pt", ".safetensors")
    return {"fc/1": A, 2: B} if several else {"activations": A}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_numbers(tmp_path, kind):
    path = tmp_path / f"acts.{kind}"
    expected = written(path)
    found = read(str(path), [], depth=3)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert np.allclose(np.asarray(found[name]), values)
        assert kind == "csv" or np.asarray(found[name]).dtype.kind == values.dtype.kind


def test_names_that_are_levels_and_names_that_are_not(tmp_path):
    path = str(tmp_path / "a.npz")
    names = ["1", "01", "4", "0", "²", "9" * 5000, "a/b", "a_b", "x.npy"]
    np.savez(path, **dict.fromkeys(names, A))
    assert list(read(path, [], depth=3)) == [1, *names[1:]]


def test_layers_are_chosen_in_order_and_by_pattern(tmp_path):
    path = str(tmp_path / "a.npz")
    np.savez(path, **dict.fromkeys(["fc1", "out", "fc2", "[a]"], A))
    assert list(read(path, ["out", "fc*", "[a]"], depth=3)) == ["out", "fc1", "fc2", "[a]"]
    with pytest.raises(
        UnreadableError, match=r"no layer 'fc3', expected some of 'fc1', 'out', 'fc2'"
    ):
        read(path, ["fc3"], depth=3)
    np.savez(path, **dict.fromkeys([f"layer{at}" * 40 for at in range(300)], A[:2, :1]))
    with pytest.raises(UnreadableError, match="more") as caught:
        read(path, ["\n" * 999], depth=3)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300
    np.save(path[:-1] + "y", A)
    with pytest.raises(UnreadableError, match="no layer 'fc1', expected some of 'activations'"):
        read(path[:-1] + "y", ["fc1"], depth=3)


def test_numbers_in_another_order_of_bytes(tmp_path):
    path = str(tmp_path / "a.npy")
    np.save(path, np.asfortranarray(A).astype(">f4"))
    found = read(path, [], depth=3)["activations"]
    assert np.array_equal(torch.from_numpy(found), A)


def test_a_table_without_a_head(tmp_path):
    path = tmp_path / "a.csv"
    np.savetxt(path, A, delimiter=",")
    assert read(str(path), [], depth=3)["activations"].shape == (40, 3)
    pd.DataFrame(A).to_csv(path, index=False)  # whose head is 0,1,2
    assert read(str(path), [], depth=3)["activations"].shape == (40, 3)
    pd.DataFrame(A).to_csv(path)
    with pytest.raises(UnreadableError, match="first column has no name; is it the index"):
        read(str(path), [], depth=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["a", "b"]), "holds <U1, expected bool, integers or floats of at most 64 bits"),
        (np.array([b"a"]), r"holds \|S1"),
        (np.array(["2020-01-01"], dtype="M8[D]"), r"holds datetime64\[D\]"),
        (np.zeros(3, dtype=[("x", "f4")]), "expected bool"),
        (np.zeros(3, dtype=[("x" * 400, "f4"), ("é", "i8")]), "expected bool"),
        (np.zeros((3, 2), "longdouble"), "holds float128"),
        (np.zeros((3, 2), "complex64"), "holds complex64"),
        (np.array([{"a": 1}], dtype=object), "holds Python objects"),
        (np.zeros((3, 0)), r"shape \(3, 0\), expected rows and units"),
        (np.zeros((0, 3)), r"shape \(0, 3\), expected rows and units"),
        (np.float64(3), r"shape \(\), expected rows and units"),
        (np.zeros(3), r"shape \(3,\), expected rows and units"),
    ],
)
def test_what_is_not_activations_is_refused(tmp_path, values, message):
    for path, save in ((tmp_path / "a.npz", np.savez), (tmp_path / "a.npy", np.save)):
        save(path, values)
        with pytest.raises(UnreadableError, match=message) as caught:
            read(str(path), [], depth=3)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"a": [1.0]}, "layer 'a' is a list, expected a tensor"),
        ([torch.zeros(3, 2)], "holds a list, expected a tensor or layers by name"),
        ({}, "has no layers"),
        ({"a": torch.zeros(3, 2, dtype=torch.complex64)}, "holds complex64"),
        ({"a": torch.eye(3).to_sparse()}, "holds sparse_coo"),
        ({"a": torch.empty(3, 2, device="meta")}, "holds no numbers"),
        ({1: torch.zeros(3, 2), "1": torch.zeros(3, 2)}, "two layers named '1'"),
        ({"a": torch.nn.Linear(2, 2)}, "Python objects, which are not unpickled"),
    ],
)
def test_other_things_that_torch_saves_are_refused(tmp_path, held, message):
    path = str(tmp_path / "a.pt")
    torch.save(held, path)
    with pytest.raises(UnreadableError, match=message):
        read(path, [], depth=3)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch deprecates both
def test_tensors_without_a_shape_or_of_codes_are_refused(tmp_path):
    nested = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(5)])
    codes = torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8)
    for held, message in ((nested, "holds a nested tensor"), (codes, "holds qint8")):
        torch.save({"a": held}, tmp_path / "a.pt")
        with pytest.raises(UnreadableError, match=message):
            read(str(tmp_path / "a.pt"), [], depth=3)


def test_tables_of_text_are_refused(tmp_path):
    path = str(tmp_path / "a.parquet")
    pd.DataFrame({"u": [1.0], "v": ["x"]}).to_parquet(path)
    with pytest.raises(UnreadableError, match="column 'v' holds"):
        read(path, [], depth=3)
    for text, message in {
        "u;v\n1;2\n": "no numbers that commas separate",
        "u,v\n1,2,3\n": "more cells than its first, 2",
        "u,v\n1,x\n": "column 'v' holds",
    }.items():
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(UnreadableError, match=message):
            read(str(tmp_path / "a.csv"), [], depth=3)
    pd.DataFrame({"u": [1.0, 2.0, 3.0]}, index=[2, 0, 1]).to_parquet(path)
    with pytest.raises(UnreadableError, match="its rows are numbered out of order"):
        read(path, [], depth=3)
    pd.DataFrame({"u": [1.0, 2.0]}, index=[3, 8]).to_parquet(path)
    assert read(path, [], depth=3)["activations"].tolist() == [[1.0], [2.0]]
    (tmp_path / "a.csv").write_text("u,v\n")
    with pytest.raises(UnreadableError, match="has no rows"):
        read(str(tmp_path / "a.csv"), [], depth=3)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UnreadableError, match="damaged or of another format: EmptyDataError"):
        read(str(tmp_path / "a.csv"), [], depth=3)


def test_files_that_unpack_to_far_more_than_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(_foreign_files, "FREE", 1000)
    for path, save in ((tmp_path / "a.npz", np.savez_compressed), (tmp_path / "b.pt", None)):
        if save:
            save(path, x=np.zeros((1000, 1000)))
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("x/data", bytes(10**6))
        with pytest.raises(UnreadableError, match=r"would unpack to .* more than 100 times"):
            read(str(path), [], depth=3)


def test_one_number_that_stands_for_many(tmp_path):
    path = str(tmp_path / "a.pt")
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path)
    with pytest.raises(UnreadableError, match="would unpack to 4,000,000,000,000, more than 100"):
        read(path, [], depth=3)


def test_a_header_that_claims_more_than_there_is(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 512)}
    )
    (tmp_path / "a.npy").write_bytes(file.getvalue() + bytes(100))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", file.getvalue() + bytes(100))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(UnreadableError, match="has 100 bytes, expected 2,048,000,000,000 for"):
            read(str(tmp_path / name), [], depth=3)


def test_pipes_folders_and_other_names_are_refused(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    (tmp_path / "b.pt").mkdir()
    for name in ("a.npz", "b.pt"):
        with pytest.raises(UnreadableError, match="is not a plain file"):
            read(str(tmp_path / name), [], depth=3)
    with pytest.raises(UnreadableError, match=r"expected a file named \.npz, \.npy"):
        read("a.pkl", [], depth=3)
    with pytest.raises(FileNotFoundError):
        read("none.npz", [], depth=3)


def check_mutants(tmp_path, kind, count):
    """Damaged files are refused in one sentence; those with checksums never give other numbers."""
    path = tmp_path / f"acts.{kind}"
    expected = written(path)

    def check(found):
        if kind in ("npz", "packed.npz", "pt"):
            for name in found.keys() & expected.keys():
                assert np.array_equal(np.asarray(found[name]), expected[name])

    refused = check_reader(
        path, lambda: read(str(path), [], depth=3), UnreadableError, count, check
    )
    assert refused > count // 20


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_refused_in_one_line(tmp_path, kind):
    check_mutants(tmp_path, kind, 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_thousands_of_damaged_files(tmp_path, kind):
    check_mutants(tmp_path, kind, 2000)
