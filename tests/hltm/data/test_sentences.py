"""Strings of a grammar as a data set, a file, and the targets of a probe."""

import json
import pickle

import pytest
import torch
from pyarrow import parquet
from torch.utils.data import DataLoader

import hltm
from hltm.probe import LinearProbe

GRAMMAR = hltm.PCFG.from_text("S -> A S [0.25] | A A [0.75]\nA -> 'a' 'b' [0.5] | 'b' [0.5]")
SPANS = [(0, 2), (2, 4)]


def sentences(**changes):
    given = {"samples": 200, "seed": 3, "max_length": 5, "spans": SPANS} | changes
    return hltm.SentenceDataset(GRAMMAR, **given)


def test_rows_are_those_of_the_grammar_in_any_order():
    found = GRAMMAR.sample(240, seed=3, max_length=5)
    data = sentences(start=40)
    x, y = data[:]
    assert x.equal(found.tokens[40:])
    assert y.equal(found.labels(SPANS)[40:])
    some = data[[7, -1, 7]]
    assert some.inputs.equal(x[[7, 199, 7]])
    assert some.targets.equal(y[[7, 199, 7]])
    assert data[5].inputs.equal(x[5])
    assert torch.cat([batch for batch, _ in DataLoader(data, batch_size=64)]).equal(x)
    assert pickle.loads(pickle.dumps(data)) == data
    encoded = sentences(start=40, encode=lambda tokens: tokens.double() + 1)
    assert encoded[:].inputs.equal(x.double() + 1)


def test_a_file_holds_rows_labels_and_where_they_are_from(tmp_path):
    data = sentences(start=10)
    data.save(tmp_path / "s.parquet")
    table = parquet.read_table(tmp_path / "s.parquet")
    about = json.loads(table.schema.metadata[b"hltm"])
    assert hltm.PCFG.from_text(about["grammar"]) == GRAMMAR
    assert (about["terminals"], about["symbols"]) == (["a", "b"], ["S", "A"])
    frame = table.to_pandas()
    assert frame.row.tolist() == list(range(10, 210))
    x, y = data[:]
    for t in range(5):
        assert frame[f"token_{t}"].fillna(-1).tolist() == x[:, t].tolist()
    assert frame[["label_0_2", "label_2_4"]].to_numpy().tolist() == y.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["s.parquet"]
    again = hltm.SentenceDataset.load(tmp_path / "s.parquet")
    assert again == data
    assert again[:].inputs.equal(x)
    assert again[:].targets.equal(y)


def test_files_that_save_did_not_write_or_that_were_changed_are_refused(tmp_path):
    path, other = tmp_path / "s.parquet", "is no file that SentenceDataset.save wrote: "
    sentences().save(path)
    table = parquet.read_table(path)
    about, names = table.schema.metadata, table.column_names

    def renamed(*columns):
        return table.rename_columns([*columns]).replace_schema_metadata(about)

    for changed, message in [
        (table.set_column(1, "token_0", table["token_1"]), "are not those of its grammar and its seed"),
        (table.drop_columns("token_4"), "are not those of its grammar and its seed"),
        (renamed("x", *names[1:]), other + ".*row"),
        (renamed(*names[:-1], "label_2"), other + "not enough values"),
        (table.slice(0, 0), other),
        (table.replace_schema_metadata(None), other + "b'hltm'"),
        (table.replace_schema_metadata({"hltm": '{"grammar": "S"}'}), other + "line 1: expected a line"),
    ]:  # fmt: skip
        parquet.write_table(changed, path)
        with pytest.raises(ValueError, match=message):
            hltm.SentenceDataset.load(path)
    path.write_text("S -> 'a' [1]")
    with pytest.raises(ValueError, match=other):
        hltm.SentenceDataset.load(path)


def test_labels_are_targets_of_a_probe_and_posteriors_its_ceiling():
    data = sentences(samples=600)
    x, y = data[:]
    units = torch.nn.functional.one_hot(x + 1, 3).flatten(1).T.double()
    units = torch.cat([units, units[:, None].mul(units[None]).flatten(0, 1)])  # pairs of tokens
    probe = LinearProbe(len(GRAMMAR.symbols) + 1)
    probe.update(units, y.T)
    found = probe.result()
    assert (found.correlation > found.null).all()
    belief = GRAMMAR.posterior(x, SPANS)  # (B, N, M)
    likely = torch.cat([1 - belief.sum(-1, keepdim=True), belief], -1)
    hits = likely.gather(-1, y[..., None])[..., 0]
    assert hits.min() > 0
    assert float(hits.mean()) == pytest.approx(float(likely.square().sum(-1).mean()), abs=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"spans": [(4, 6)]}, r"span \(4, 6\) is not within the 5 tokens"),
        ({"max_length": 1, "spans": []}, "strings of at most 1 tokens have probability 0"),
        ({"samples": 2.5}, "samples must be an integer, got 2.5"),
        ({"start": -1}, "start must be at least 0, got -1"),
        ({"seed": -1}, "seed must be in"),
        ({"spans": [3]}, r"spans must be pairs \(start, stop\) of integers, got \[3\]"),
        ({"spans": [(0.5, 2)]}, "spans must be pairs"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sentences(**changes)
