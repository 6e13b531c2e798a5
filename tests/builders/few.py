"""Families of cases, of which all but a few are slow."""

import pytest


def few(cases, kept=1):
    """The cases of a parametrised test, slow beyond the first `kept`, or unless among them."""
    return [
        case
        if (i < kept if isinstance(kept, int) else case in kept)
        else pytest.param(case, marks=pytest.mark.slow)
        for i, case in enumerate(cases)
    ]
