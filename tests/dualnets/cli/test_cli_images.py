"""`hltm images`: where data sets are, and a figure of views; one line for every mistake."""

import subprocess
import sys

import numpy as np
import pytest

from dualnets.cli import main
from dualnets.images import LabelledImages, load, parse_views
from dualnets.lab.report.views_figure import views_figure
from hltm.sampling.philox import Stream


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("HLTM_DATA", raising=False)


def test_the_list_says_where_a_data_set_is_or_what_to_put_where(tmp_path, capsys):
    assert main(["images", "--data", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (
        "1,797 handwritten digits, 1x8x8, 10 classes\n                 with scikit-learn\n" in text
    )
    words = " ".join(text.split())
    assert f"not found in {tmp_path}: put train-images-idx3-ubyte, " in words
    assert "install Debian's dataset-fashion-mnist" in words
    assert (
        "flip[:PROBABILITY] Left and right exchanged. PROBABILITY: of a flip (default: 0.5)."
        in words
    )
    assert "SCALE: smallest share of the area, above 0 and at most 1." in words
    assert "default crop:0.4+light:0.4" in words
    assert all(len(line) <= 80 for line in text.splitlines() if str(tmp_path) not in line)
    for part, labels in (("train", [1, 2]), ("test", [3])):
        (tmp_path / f"{part}_X.bin").write_bytes(bytes(27_648 * len(labels)))
        (tmp_path / f"{part}_y.bin").write_bytes(bytes(labels))
    main(["images", "--data", str(tmp_path)])
    assert f"3x96x96, 10 classes\n                 {tmp_path}\n" in capsys.readouterr().out


def test_the_help_fits_a_terminal_and_waits_for_no_torch():
    code = "import sys; from dualnets.cli import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    for arguments in (["images", "--help"], ["images"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        *lines, torch = done.stdout.splitlines()
        assert torch == "False"
        assert max(map(len, lines)) <= 80


def test_views_are_drawn_into_a_file(tmp_path, capsys):
    out = tmp_path / "views.png"
    assert (
        main(["images", "--show", "digits", "--augment", "crop:0.5+blur", "--out", str(out)]) == 0
    )
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--show", "mnist"], "--show must be one of digits, fashion-mnist, cifar10, stl10, got 'mnist'"),
        (["--show", "stl10"], "stl10 is not found: put train_X.bin, train_y.bin, test_X.bin, test_y.bin "),
        (["--show", "digits", "--augment", "crp:1"], "unknown operation 'crp' (did you mean crop?)"),
        (["--show", "digits", "--augment", "grey"], "grey needs pictures of 3 channels, these have"),
        (["--show", "digits", "--seed", "-1"], "seed must be in 0..2^64-1, got -1"),
        (["--show", "digits", "--out", "a.jpg"], "--out must end in .png, .svg, .pdf, got 'a.jpg'"),
        (["--show", "digits", "--out", "no/a.png"], "--out no/a.png: there is no folder no"),
        (["--data", __file__], "data sets of images are in a folder, which "),
        (["--augment", "flip"], "--augment is for --show DATASET"),
        (["--seed", "1"], "--seed is for --show DATASET"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["images", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"hltm: {message}")
    assert printed.err.count("\n") == 1
    assert not printed.out
    assert not list(tmp_path.iterdir())


def test_the_figure_shows_pictures_of_each_class_and_the_views_of_training():
    digits, augment = load("digits"), parse_views("default")
    figure = views_figure(digits, augment, seed=5, pictures=12, views=2)
    assert len(figure.axes) == 12 * 3
    columns = [figure.axes[12 * at : 12 * at + 12] for at in range(3)]
    assert [axes.get_ylabel() for axes in columns[0]] == [*"0123456789", "0", "1"]
    rows = [int(np.flatnonzero(digits.train.labels == k)[0]) for k in range(10)]
    rows += [int(np.flatnonzero(digits.train.labels == k)[1]) for k in range(2)]
    whole = {"seed": 5, "stream": Stream.DATA, "members": [0, 1]}
    for view in (1, 2):
        drawn = augment.views(digits.train.images, view=view, **whole)[0, rows, 0]
        shown = [axes.images[0].get_array() for axes in columns[view]]
        assert np.array(shown) == pytest.approx(drawn.numpy().clip(0, 1))
    assert columns[0][3].images[0].get_array().max() == 1
    texts = [text.get_text() for text in figure.texts]
    assert texts == ["Views of digits", "default: crop:0.4 + light:0.4"]


def test_the_figure_shows_colour_and_strange_names():
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 6, 5), np.uint8)
    mine = LabelledImages.from_arrays(
        "a$_b$\n", (images, [0, 1, 0, 1]), (images, [0] * 4), ["$x", "y" * 50]
    )
    figure = views_figure(mine, parse_views("none"), seed=0, pictures=9, views=1)
    figure.canvas.draw()
    assert len(figure.axes) == 8  # as many as there are
    shown = figure.axes[4].images[0].get_array()
    assert np.asarray(shown) == pytest.approx(images[0].transpose(1, 2, 0) / 255)
    with pytest.raises(TypeError, match="images must be such as"):
        views_figure(images, parse_views("none"), seed=0)
    with pytest.raises(ValueError, match="views must be at least 1, got 0"):
        views_figure(mine, parse_views("none"), seed=0, views=0)
