"""Formulas as MathML, which browsers draw themselves: no script, no font, no network."""

import re
from html import escape

from docutils import nodes
from docutils.utils.math import latex2mathml

# what docutils does not know, and what is as good
UNKNOWN = {r"\dots": r"\ldots", r"\cr": r"\\", r"\Big": ""}
# \frac12 has two arguments of one character each, which docutils reads as one of two
SHORT_FRACTION = re.compile(r"\\([td]?frac)\s*([0-9A-Za-z])\s*([0-9A-Za-z])")
TAG = re.compile(r"\\tag\{([^}]*)\}")


def converted(text, *, block):
    """The MathML of a formula; an error of the build where it cannot be converted."""
    for word, known in UNKNOWN.items():
        text = text.replace(word, known)
    text = SHORT_FRACTION.sub(r"\\\1{\2}{\3}", text)
    try:
        return latex2mathml.tex2mathml(text, as_block=block)
    except Exception as error:
        raise ValueError(f"formula {text!r} cannot be converted to MathML: {error}") from error


def inline(self, node):
    self.body.append(_tagged(node.astext(), block=False))
    raise nodes.SkipNode


def displayed(self, node):
    identity = f' id="{escape(node["ids"][0])}"' if node.get("ids") else ""
    self.body.append(f'<div class="math"{identity}>{_tagged(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def _tagged(text, *, block):
    """A formula, and its number behind it."""
    numbers = "".join(f'<span class="eqno">({escape(tag)})</span>' for tag in TAG.findall(text))
    return numbers + converted(TAG.sub("", text), block=block)


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
