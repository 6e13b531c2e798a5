"""Pages of runs as files: tables, terms, settings, versions; and the folder of all of them."""

import contextlib
import dataclasses
import html
import io
import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from made_up_pages import HOSTILE, STEPS, made_up_page, made_up_run
from made_up_runs import edit

from dualnets import experiments
from dualnets.cli import main
from dualnets.lab import grids, store
from dualnets.lab.report import explorer, glossary, site
from dualnets.lab.report.document import document, prose
from dualnets.lab.report.page import figure_caption
from dualnets.lab.report.run_settings import rebuilt, settings_html
from dualnets.lab.report.tables import details_table, html_table, shown


def test_details_keep_whole_numbers_beside_rows_without_one():
    table = details_table([{"variant": "a", "level": 2}, {"variant": "b", "spread": 0.25}])
    assert "<td>2</td>" in table
    assert "<td>0.250</td>" in table
    assert table.count("<td>–</td>") == 2


def test_details_have_intervals_with_their_values_no_lists_and_one_sign_for_nothing():
    rows = [
        {"part": "a", "gap": 0.5, "low": 0.25, "high": None, "x": 1.0, "x_low": 0.5, "x_high": 2.0,
         "which": ["b", "c"], "none": None, "word": "None"},
        {"part": "b", "gap": None, "low": None, "high": None, "which": [], "none": "", "word": "yes"},
    ]  # fmt: skip
    table = details_table(rows)
    assert "0.500 [0.250, –]" in table
    assert "1.000 [0.500, 2.000]" in table
    assert "b, c" in table
    assert not re.search(r"None|\['|nan|>none<|>low<", table)
    assert details_table([]) == ""


def test_every_column_has_a_name_that_sorts_and_terms_an_explanation():
    table = html_table(pd.DataFrame({"variant": ["a"], "gap closed": [0.5], "": [1]}))
    assert len(re.findall('class="sort">[a-z ]+</button>', table)) == 3
    assert 'popovertarget="term-gap-closed"' in table
    page = document("title", table)
    assert glossary.TERMS["gap closed"] in page
    assert glossary.TERMS["spread"] not in page  # which no part of the page needs


def test_equal_texts_are_in_the_table_for_whoever_sorts_it():
    table = html_table(pd.DataFrame({"network": ["tree", "tree", "mlp"], "n": [1, 2, 3]}))
    assert table.count("tree") == 2
    assert table.count('class="again"') == 1
    assert "<td" not in html_table(pd.DataFrame({"network": []}))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.25, "0.250"), (1e-9, "1.0e-09"), (None, "–"), (float("nan"), "–"), (np.float64("nan"), "–"),
     (True, "yes"), ("None", "–"), ((1, 0.5), "1, 0.500"), ({"a": 1}, "a 1"), ("", "")],
)  # fmt: skip
def test_values_are_shown_as_texts(value, text):
    assert shown(value) == text


def test_terms_are_explained_once_in_a_text_and_not_in_code():
    text = prose("The null, the ceiling and the null again; `ceiling` is code <b>", terms=True)
    assert text.count("<button") == 2
    assert "<code>ceiling</code>" in text
    assert "&lt;b&gt;" in text


def test_every_spelling_leads_to_a_term_and_no_explanation_has_markup():
    assert set(glossary.SPELLED.values()) <= set(glossary.TERMS)
    assert {*glossary.TERMS, *glossary.SPELLED} >= glossary.WHOLE | glossary.NOT_IN_PROSE
    for text in glossary.TERMS.values():
        assert text.endswith(".")
        assert not re.search("[<`]", text)


def test_settings_begin_with_what_differs_from_the_default_scale():
    experiment = experiments.load("emergence")
    text = settings_html(experiment, [{"units": 2, "lr": 0.3, "steps": 300, "clip": None}])
    first, rest = text.split("<details>")
    assert "steps" in first
    assert "8000" in first
    assert "momentum" not in first
    assert "momentum" in rest
    # neither what has no effect (the margin is of another loss), nor None
    assert not re.search("margin|beta1|clip|None", text)
    usual = settings_html(experiment, [{"units": u, "lr": 0.3, "steps": 8000} for u in (2, 5, 10)])
    assert "The cells differ in units." in usual


def test_settings_of_earlier_versions_are_shown_as_they_are_called_today():
    experiment = experiments.load("byol_batchnorm")
    old = {
        "predictor_weight_decay": -1.0,
        "target_momentum": 0.5,
        "network": "wrong-tree",
        "gone": 1,
    }
    today = rebuilt(experiment, old)
    assert (today.predictor_weight_decay, today.ema_decay) == (None, 0.5)
    assert today.network == "shuffled-tree"
    assert rebuilt(experiment, {"units": "many"}) is None


@pytest.mark.parametrize("scale", [pytest.param("smoke", marks=pytest.mark.slow), "default"])
@pytest.mark.slow
def test_no_experiment_shows_a_sentinel(scale):
    for name in experiments.names():
        experiment = experiments.load(name)
        own = [dataclasses.asdict(each) for each in grids.cells(experiment, scale, {})]
        assert not re.search(r">(None|-1|-1\.0|nan)?</td>", settings_html(experiment, own)), name


def test_a_page_states_the_versions_of_its_cells_alone():
    page = made_up_page()
    assert "hltm 1.0" in page
    assert "9.9" not in page  # the version that joined the cells
    assert "2026-11-29 05:30 UTC" in page
    assert "smoke scale" in page
    other = made_up_page(date=None, of_5="2.0")
    assert "The cells were made with different versions: hltm 1.0 (1 cell), 2.0 (1 cell)." in other
    assert " UTC" not in other


def test_what_is_written_by_people_is_text_and_nothing_else():
    page = made_up_page()
    for text in (HOSTILE[0], HOSTILE[3]):
        assert text not in page
    assert "&lt;img src=x" in page
    assert chr(0x202E) not in page
    assert chr(0x200B) not in page


def test_the_explorer_has_every_score_and_the_mean_first():
    experiment, table, _, _, manifest = made_up_run()
    found = explorer.explorer_data(experiment, table, manifest["cells"])
    (tree,) = found["trees"]
    assert tree["names"][:3] == list(HOSTILE[:3])
    assert [cell["name"] for cell in found["cells"]] == ["units 2", "units 5"]
    cell = found["cells"][1]
    assert (cell["steps"], cell["members"], cell["units"]) == ([*STEPS], [0, 1], 5)
    values = cell["of"]["correlation"]["value"]
    own = table[(table["cell"] == "cell5") & (table["step"] == 10) & (table["node"] == HOSTILE[2])]
    assert [values[at][1][2] for at in (1, 2)] == [round(1000 * v) for v in own["value"]]
    assert values[0][1][2] == round(1000 * own["value"].mean())
    assert cell["of"]["correlation"]["ceiling"][0] == [900] * 3
    table.loc[table["member"] == 0, "value"] = np.nan
    values = explorer.explorer_data(experiment, table, manifest["cells"])["cells"][0]["of"]
    assert values["correlation"]["value"][1][0] == [None] * 3
    assert values["correlation"]["value"][0][0] == values["correlation"]["value"][2][0]


def test_the_explorer_of_a_large_run_has_means_alone(monkeypatch):
    experiment, table, _, _, manifest = made_up_run()
    both = pd.concat([table, table])  # a score that was stored twice is there once
    every = explorer.explorer_data(experiment, both, manifest["cells"])["cells"][0]
    monkeypatch.setattr(explorer, "MOST", len(table) - 1)
    means = explorer.explorer_data(experiment, table, manifest["cells"])["cells"][0]
    assert (every["members"], means["members"]) == ([0, 1], [])
    assert means["of"]["correlation"]["value"] == every["of"]["correlation"]["value"][:1]


def test_without_scores_on_trees_or_without_plotly_a_page_has_no_explorer(monkeypatch):
    experiment, table, _, _, manifest = made_up_run()
    assert explorer.explorer(experiment, table.drop(columns="node"), manifest["cells"]) == ("", "")
    monkeypatch.setattr(explorer, "find_spec", lambda name: None)
    page = made_up_page()
    assert "pip install plotly" in page
    assert len(page) < 100_000


def test_cells_without_scores_on_trees_are_left_out_of_the_explorer():
    experiment, table, _, _, manifest = made_up_run()
    kept = table[table["cell"] == "cell5"]
    found = explorer.explorer_data(experiment, kept, manifest["cells"])
    assert [cell["name"] for cell in found["cells"]] == ["units 5"]
    dead = kept.assign(metric=explorer.DEAD)  # of which no tree can be coloured
    assert explorer.explorer_data(experiment, dead, manifest["cells"]) is None


def test_legends_have_the_first_sentence_of_each_explanation():
    assert glossary.legend(["ceiling", "gap closed ≥ 2", "variant"]) == {
        "ceiling": "The best score that any function of the leaves reaches.",
        "gap closed": "The share of the way from untrained to ceiling that training went.",
    }
    for term, text in glossary.legend(glossary.TERMS).items():
        assert len(f"{term}: {text}") <= 80, term
        assert "picture" not in text or term == "accuracy", term


def test_every_figure_has_a_caption():
    for name in experiments.names():
        caption = figure_caption(experiments.load(name))
        assert len(caption) > 30, name
        assert caption[0].isupper(), name
        assert not caption.startswith("The figure"), name


BROKEN, OLDER, CUT, NO_WORD = (f"{digit:012x}" for digit in range(4))


@pytest.fixture(scope="module")
def reported(stored, tmp_path_factory):
    """A report of one run, two that are damaged, one of an earlier version; what the command printed."""
    home = tmp_path_factory.mktemp("reported")
    shutil.copytree(stored[2], home / "runs")
    own = home / "runs" / "emergence"
    name = stored[0].name
    for other in (BROKEN, OLDER, CUT, NO_WORD):
        shutil.copytree(own / name, own / other)
        gone = ["checksum", "checksums"] + ["date"] * (other == OLDER)
        edit(own / other / store.MANIFEST, run=other, **dict.fromkeys(gone))
    os.utime(own / OLDER / store.MANIFEST, (0, 86_400))
    (own / "tensorboard").mkdir()  # no run
    (own / BROKEN / store.RESULTS).write_bytes(b"PAR1")
    (own / CUT / store.MANIFEST).write_text("{")
    verdicts = json.loads((own / NO_WORD / store.VERDICT).read_text())
    verdicts[0]["verdict"] = '"><b>'
    (own / NO_WORD / store.VERDICT).write_text(json.dumps(verdicts))
    (own / "unfinished").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        errors, printed = io.StringIO(), io.StringIO()
        patch.setenv("COLUMNS", "80")
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
            status = main(["report", str(home / "runs"), "-o", str(home / "report")])
    return home, name, status, printed.getvalue(), errors.getvalue()


def test_a_report_links_runs_and_claims_both_ways(reported):
    home, name, status, printed, _ = reported
    assert status == 0
    assert printed.startswith(f"{home / 'report' / 'index.html'}: 2 runs, ")
    index = (home / "report" / "index.html").read_text()
    page = f"emergence-{name}.html"
    assert index.count(f'href="{page}"') == 3  # picture, title, claim
    assert index.index(page) < index.index(f"emergence-{OLDER}.html")  # newest first
    assert index.count("1970-01-02 00:00 UTC") == 2  # of the run and its claim, as hltm runs has it
    assert index.count(f'href="emergence-{OLDER}.html"') == 3
    assert 'id="claim-emergence"' in index
    assert 'href="#claim-emergence"' in index
    assert 'href="index.html#claim-emergence"' in (home / "report" / page).read_text()
    assert "not run: hltm run losses" in index
    links = re.findall(r'(?:href|src)="([^"#:]+)["#]', index)
    assert all((home / "report" / link).is_file() for link in links)
    assert (home / "report" / f"emergence-{name}.jpg").stat().st_size > 1000


def test_damaged_runs_are_named_and_stop_nothing(reported):
    home, *_, errors = reported
    index = (home / "report" / "index.html").read_text()
    expected = {BROKEN: "results.parquet is cut off, or no Parquet file",
                CUT: "manifest.json is no JSON",
                NO_WORD: "&#x27;verdict&#x27; in verdict.json is "}  # fmt: skip
    for folder, reason in expected.items():
        assert f"<code>emergence/{folder}</code>: {reason}" in index
        assert f"hltm: emergence/{folder} cannot be shown: {html.unescape(reason)}" in errors
    assert "unfinished" not in index  # which is no run
    assert errors.count("\n") == 3


def test_a_report_is_replaced_and_nothing_else_is(reported, tmp_path, capsys):
    home, *_ = reported
    runs = str(home / "runs")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / site.MARK).write_text('{"runs": []}')  # a report of something else
    shutil.copytree(home / "report", tmp_path / "own")
    (tmp_path / "own" / "CNAME").write_text("example.org")
    (tmp_path / "link").symlink_to(home / "report")
    for target, message in (
        (tmp_path / "mine", "has files and is no report"),
        (tmp_path / "other", "has files and is no report"),
        (tmp_path / "own", "which would be lost: 'CNAME'"),
        (tmp_path / "link", "is a link, expected a folder"),
        (tmp_path / "mine" / "notes.txt" / "report", "cannot write to"),
        (tmp_path / "mine" / "notes.txt", "is a file, expected a folder"),
        (home / "runs" / "report", "must lie apart from the runs"),
        (home, "must lie apart from the runs"),
    ):
        assert main(["report", runs, "-o", str(target)]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert (tmp_path / "own" / "CNAME").read_text() == "example.org"
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    site.check_target(home / "runs", home / "report")
