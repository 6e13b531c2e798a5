"""Figures that a notebook shows as pictures, whether pyplot was imported or not."""

from __future__ import annotations

from io import BytesIO

from matplotlib import figure


class Figure(figure.Figure):
    """matplotlib's figure, which says itself how a notebook shows it.

    A notebook shows matplotlib's own as text until pyplot has set up its backend. Where it has, that way
    is taken.

    Example:
        >>> Figure(figsize=(2, 1))._repr_png_()[1:4]
        b'PNG'
    """

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
