"""What notebooks show of a tree: text, a small picture, a table; all of it escaped, none of it large."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import hltm


def parsed(tree):
    return ElementTree.fromstring(tree._repr_html_().replace("<br>", "<br/>"))


@pytest.mark.parametrize(
    "tree",
    [
        hltm.symmetric_binary(depth=3, seed=0),
        hltm.symmetric_binary(depth=2, polarity=0.0, members=3, seed=0),
        hltm.random_tree(nodes=40, cardinality=(2, 5), seed=1),
        hltm.caterpillar(depth=5, seed=1),
        hltm.balanced(depth=1, transition=[[1, 0], [1, 0]]),
    ],
)
def test_small_trees_have_a_picture(tree):
    found = parsed(tree)
    svg = next(each for each in found if each.tag.endswith("svg"))
    tags = [each.tag.rpartition("}")[2] for each in svg]
    assert tags.count("circle") == len(tree.latents)
    assert tags.count("rect") == len(tree.leaves)
    assert tags.count("polyline") == len(tree.topology) - 1
    assert "nan" not in tree._repr_html_()
    width, height = float(svg.get("width")), float(svg.get("height"))
    for disc in svg.iter("{http://www.w3.org/2000/svg}circle"):
        assert 8 <= float(disc.get("cx")) <= width - 8
        assert 8 <= float(disc.get("cy")) <= height - 8


def test_edges_are_legible_on_any_page():
    """Those without a sign have the colour of the text, light where the page is dark."""
    three = hltm.random_tree(nodes=9, cardinality=3, seed=0)
    strokes = {line.get("stroke") for line in parsed(three).iter() if line.tag.endswith("polyline")}
    assert strokes == {"currentColor"}


def test_names_are_escaped():
    names = ["<b>", "a & b", '"']
    tree = hltm.LatentTree.from_parents(
        [None, 0, 0], [[0.5, 0.5], np.eye(2), np.eye(2)], names=names
    )
    cells = [cell.text for cell in parsed(tree).iter("td")]
    assert [name in cells for name in names] == [True] * 3
    assert "<b>" not in tree._repr_html_()


def test_large_trees_are_a_short_table():
    html = hltm.balanced(depth=12, seed=0)._repr_html_()
    assert "<svg" not in html
    assert len(re.findall("<tr>", html)) == 1 + 8 + 1
    assert len(html) < 3000
