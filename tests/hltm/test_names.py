"""Names as text in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hltm._names import brief, listed, visible


@given(st.text())
def test_what_is_shown_prints_in_one_line(text):
    assert visible(text).isprintable()
    visible(text).encode("utf-8")  # lone surrogates are written out, too
    if text.isprintable():
        assert visible(text) == text


@given(st.text(), st.integers(3, 30))
def test_a_long_name_keeps_its_ends(text, width):
    shown, full = brief(text, width), visible(text)
    assert len(shown) == min(len(full), width)
    assert shown[: (width - 1) // 2] == full[: (width - 1) // 2]
    assert shown[-1:] == full[-1:]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a"], "'a'"),
        (["a", "b"], "'a', 'b'"),
        (["a", "b", "c"], "'a', 'b' and 1 more"),
        (["x" * 99, "b"], f"'{'x' * 20}…{'x' * 19}' and 1 more"),
        ([1, "1\n"], "'1', '1\\n'"),
    ],
)
def test_as_many_names_as_fit(names, expected):
    assert listed(names, 12) == expected
