"""Damaged exports of every format: the rows that were written, or one clear refusal."""

import numpy as np
import pytest
from exports import FORMATS, SETTINGS, TREE
from mutants import check_reader, json_mutant

import hltm

REFUSED = (ValueError, FileNotFoundError)


def columns(data):
    return [np.asarray(column) for column in (data.leaves, data.latents, *data.views)]


def same(found, expected):
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


def check_shards(out, kind, count):
    expected = columns(hltm.export(TREE, out, 40, format=kind, **SETTINGS))
    (path,) = (out / "data").iterdir()

    def check(found):
        assert same(found, expected)

    read = lambda: columns(hltm.load(out))  # noqa: E731
    assert check_reader(path, read, REFUSED, count, check) > count // 3


def check_manifests(out, count):
    """A manifest with another tree, seed or rows does not fit the files."""
    expected = columns(hltm.export(TREE, out, 40, **SETTINGS))

    def read():
        data = hltm.load(out)
        return columns(data), data.tree.digest, hltm.verify(out, rows=40)

    def check(found):
        assert not found[2].ok or (same(found[0], expected) and found[1] == TREE.digest)

    refused = check_reader(out / "manifest.json", read, REFUSED, count, check, json_mutant)
    assert refused > count // 3


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_refused(tmp_path, kind):
    check_shards(tmp_path, kind, 20)


def test_damaged_manifests_are_refused_or_named(tmp_path):
    check_manifests(tmp_path, 40)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_thousands_of_damaged_files(tmp_path, kind):
    check_shards(tmp_path, kind, 1500)


@pytest.mark.slow
def test_thousands_of_damaged_manifests(tmp_path):
    check_manifests(tmp_path, 1500)
