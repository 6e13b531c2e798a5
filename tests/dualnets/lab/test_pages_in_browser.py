"""Pages in a headless Chromium: what a reader clicks and types does what it must, and nothing is loaded."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, browser
from made_up_pages import EXPERIMENT, HOSTILE, SVG, made_up_page, made_up_run

from dualnets import experiments
from dualnets.lab.claims import of_verdicts
from dualnets.lab.report import site
from dualnets.lab.report.explorer import packed, plotly_script
from dualnets.lab.report.index import index_page
from dualnets.lab.report.page import Site, run_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
LARGEST = 15e6  # bytes
COLOURS = "document.querySelectorAll('#trees .chart')[0].data[1].marker.color"


@pytest.fixture(scope="module")
def tab():
    pytest.importorskip("plotly")
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("plotly")
    path = tmp_path_factory.mktemp("pages") / "index.html"
    path.write_text(made_up_page(), encoding="utf-8")
    return path


@pytest.fixture
def opened(tab, page):
    """The tab with the page whose explorer is ready; at the end nothing may have gone wrong in it."""
    tab.open(page)
    tab.wait("document.getElementById('explorer').dataset.ready")
    yield tab
    assert tab.troubles() == []
    assert tab.run("window.hit") is None  # no text became an element


def choose(tab, name, value):
    tab.run(
        f"(() => {{ const own = document.getElementById('{name}'); own.value = {json.dumps(value)};"
        "own.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def test_the_slider_changes_the_colours(opened):
    end = opened.run(COLOURS)
    opened.run("document.getElementById('snapshot').focus()")
    opened.press("ArrowLeft")
    before = opened.run(COLOURS)
    assert all(a < b for a, b in zip(before, end, strict=True))
    assert "10 updates" in opened.run("document.getElementById('updates').textContent")
    choose(opened, "colour", "ceiling")
    over = opened.run(COLOURS)
    assert over == pytest.approx([value / 0.9 for value in before])
    choose(opened, "colour", "null")
    assert opened.run(COLOURS) == pytest.approx([value - 0.05 for value in before])


def test_leaves_and_latents_without_a_score_are_grey(tab, tmp_path):
    experiment, table, summary, verdicts, manifest = made_up_run()
    gone = (table["node"] == HOSTILE[1]) & ((table["step"] == 0) | (table["member"] == 1))
    table.loc[gone, "value"] = np.nan
    table.loc[table["node"] == HOSTILE[2], "value"] = 0.01  # below the null
    path = tmp_path / "a b#c%20d?e" / "index.html"
    path.parent.mkdir()
    path.write_text(run_page(experiment, table, summary, verdicts, manifest, SVG), encoding="utf-8")
    tab.open(path)
    tab.wait("document.getElementById('explorer').dataset.ready")
    part = "document.querySelector('#trees .chart').data[{}].{}"
    assert tab.run(part.format(1, "marker.symbol")) == ["circle", "circle", "square"]
    assert tab.run(part.format(2, "x.length")) == 4
    assert "reversed" in tab.run(part.format(2, "text[0]"))
    choose(tab, "member", "1")
    assert tab.run(part.format(1, "customdata")) == [HOSTILE[0], HOSTILE[2]]
    assert tab.run(part.format(2, "customdata")) == [HOSTILE[1], None, None, None, None]
    choose(tab, "member", "0")
    choose(tab, "latent", HOSTILE[1])
    told = tab.run("document.getElementById('told').textContent")
    assert "initial –" in told
    assert "gap closed –" in told  # there is no way from nothing
    assert tab.troubles() == []


def test_texts_and_controls_are_there_without_charts(tab, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(made_up_page(Site(site.INDEX, "missing.js")), encoding="utf-8")
    tab.open(path)
    tab.wait("document.getElementById('waiting').textContent.includes('missing.js')")
    assert tab.run("document.getElementById('cell-0').options.length") == 2
    choose(tab, "latent", HOSTILE[2])
    assert "ceiling0.900" in tab.run("document.getElementById('numbers').textContent")


def test_two_cells_stand_side_by_side(opened):
    assert opened.run("document.querySelectorAll('#trees .chart').length") == 1
    choose(opened, "cell-1", "1")
    assert opened.run("document.querySelectorAll('#trees .chart').length") == 2
    names = "[...document.querySelectorAll('#trees h3')].map((own) => own.textContent)"
    assert opened.run(names) == ["units 2", "units 5"]
    assert opened.run("document.querySelector('#numbers table').rows[0].cells.length") == 3
    assert opened.run(COLOURS) != opened.run(COLOURS.replace("[0]", "[1]", 1))


def test_a_latent_is_chosen_and_its_numbers_are_told(opened):
    for name in HOSTILE[:3]:
        choose(opened, "latent", name)
        told = opened.run("document.getElementById('told').textContent")
        assert told.startswith(f"latent {name}, 100 updates")
        assert "ceiling 0.900" in told
        assert opened.run("document.querySelector('#numbers th').textContent").startswith(
            f"latent {name}"
        )
    texts = opened.run("document.querySelector('#trees .chart').data[1].text")
    assert "&lt;img src=x" in texts[0]  # plotly reads tags in what it shows
    choose(opened, "member", "2")
    assert opened.run("document.getElementById('curve').data[0].y.length") == 3


def test_the_units_of_a_latent_are_shown_for_one_tree(opened):
    assert "Choose one tree" in opened.run("document.getElementById('numbers').textContent")
    choose(opened, "member", "1")
    choose(opened, "latent", HOSTILE[1])
    choose(opened, "cell-1", "1")
    rows = "[...document.querySelector('#numbers table').rows].map((row) => [...row.cells].map((own) =>" \
           "own.textContent))"  # fmt: skip
    told = {name: numbers for name, *numbers in opened.run(rows)}
    assert told["best unit"] == ["unit 0", "unit 0"]
    assert told["unit 1, first → last"] == ["0.300 → 0.300", "0.300 → 0.300"]
    assert told["unit 4, first → last"] == ["–", "0.600 → 0.600"]


def test_a_click_on_a_node_chooses_it(opened):
    opened.run("document.querySelector('#trees .chart').emit('plotly_click', { points: [{ customdata:"
               f"{json.dumps(HOSTILE[1])} }}] }})")  # fmt: skip
    assert opened.run("document.getElementById('latent').value") == HOSTILE[1]


def test_play_runs_to_the_end(opened):
    opened.run("document.getElementById('play').focus()")
    opened.press("Enter")
    assert opened.run("document.getElementById('play').textContent") == "Stop"
    assert opened.run("document.getElementById('snapshot').value") == "0"
    opened.wait("document.getElementById('play').textContent === 'Play'")
    assert opened.run("document.getElementById('snapshot').value") == "2"


def test_tables_sort_by_keyboard_and_what_is_missing_comes_last(opened):
    column = "[...document.querySelectorAll('h2 + .wide tbody')[0].rows].map((r) => r.cells[{}].textContent)"
    heading = "document.querySelectorAll('h2 + .wide thead')[0].rows[0].cells[{}]"
    opened.run(heading.format(1) + ".querySelector('.sort').focus()")
    opened.press("Enter")
    assert opened.run(column.format(1)) == ["0.250", "0.500"]
    assert opened.run(heading.format(1) + ".getAttribute('aria-sort')") == "ascending"
    opened.press("Enter")
    assert opened.run(column.format(1)) == ["0.500", "0.250"]
    for _ in range(2):
        opened.run(heading.format(2) + ".querySelector('.sort').click()")
        assert opened.run(column.format(2)) == ["0.90 [0.1, 1.0]", "–"]


def test_terms_open_and_close_by_keyboard(opened):
    is_open = "document.getElementById('term-gap-closed').matches(':popover-open')"
    opened.run("document.querySelector('[popovertarget=term-gap-closed]').focus()")
    opened.press("Enter")
    assert opened.run(is_open)
    opened.press("Escape")
    assert not opened.run(is_open)


def test_a_figure_is_enlarged_and_saved(opened):
    opened.run("document.querySelector('.enlarge').click()")
    assert opened.run("document.querySelector('dialog').open")
    opened.press("Escape")
    opened.wait("!document.querySelector('dialog')")
    assert opened.run("document.querySelector('[data-save=svg]').href").startswith("data:image/svg")
    link = "document.querySelector('[data-save=png]')"
    opened.run(f"{link}.addEventListener('click', (event) => event.preventDefault())")
    opened.run(f"{link}.click()")
    assert opened.run(f"{link}.href").startswith("data:image/png")
    assert opened.run("document.querySelector('[download$=csv]').href").startswith("data:text/csv")


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_page(tab, page, width, dark):
    tab.open(page, width=width, dark=dark)
    tab.wait("document.getElementById('explorer').dataset.ready")
    assert tab.run("document.documentElement.scrollWidth") <= width
    colour = tab.run("document.getElementById('curve').data[0].line.color")
    assert colour == ("#56b4e9" if dark else "#0072b2")  # light lines on a dark page
    assert (
        tab.run("getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'") != dark
    )
    assert tab.troubles() == []


def test_a_page_is_small(page):
    assert page.stat().st_size < LARGEST / 5


@pytest.mark.slow
def test_an_index_of_twenty_runs_opens_and_filters(tab, tmp_path):
    runs, text = [], made_up_page(Site(site.INDEX, site.PLOTLY))
    for number in range(20):
        _, _, _, verdicts, manifest = made_up_run(run=f"run{number}")
        claims = of_verdicts(EXPERIMENT, manifest, verdicts)
        name = f"emergence-run{number}.html"
        runs.append(site.ReportedRun(EXPERIMENT, manifest, claims, name, ""))
        (tmp_path / name).write_text(text, encoding="utf-8")
    script = f"globalThis.explorerPlotly = {json.dumps(packed(plotly_script()))};"
    (tmp_path / site.PLOTLY).write_text(script)
    known = {name: experiments.load(name) for name in experiments.names()}
    text = index_page(runs, known, {HOSTILE[0]: HOSTILE[3]})
    (tmp_path / site.INDEX).write_text(text, encoding="utf-8")
    assert sum(path.stat().st_size for path in Path(tmp_path).iterdir()) < LARGEST
    assert tab.open(tmp_path / site.INDEX) < 20  # tenths of a second on a machine that is not busy
    shown = "[...document.querySelectorAll('[data-verdicts]')].filter((own) => !own.hidden).length"
    every = tab.run(shown)
    assert every == 20 + sum(len(own.claims) for own in known.values())
    tab.run("(() => { const own = document.querySelector('.filter select'); own.value = 'open';"
            "own.dispatchEvent(new Event('input', { bubbles: true })); })()")  # fmt: skip
    assert tab.run(shown) == 21
    tab.run("document.querySelector('.filter input').focus()")
    tab.send("Input.insertText", text="no such word")
    assert tab.run(shown) == 0
    assert tab.troubles() == []
    tab.open(tmp_path / runs[0].page)  # which reads plotly from the file beside it
    tab.wait("document.getElementById('explorer').dataset.ready")
    assert tab.troubles() == []
    assert tab.run("window.hit") is None


@pytest.mark.slow
def test_the_browser_reports_what_goes_wrong(tab, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text("<script>console.error('one'); fetch('http://127.0.0.1:9/two').catch(() => 0);"
                    "throw new Error('three')</script>")  # fmt: skip
    tab.open(path)
    for word in ("one", "127.0.0.1:9/two", "three"):
        end = time.monotonic() + 20
        while word not in " ".join(tab.troubles()):
            assert time.monotonic() < end, word
            tab.wait("true")  # which reads what the browser has sent
