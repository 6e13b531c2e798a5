"""Scripts of `examples/` run from top to bottom, and show what they say they show."""

import runpy
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def test_latents_emerge_in_sixty_lines(capsys):
    text = (EXAMPLES / "emergence_in_60_lines.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    names = runpy.run_path(str(EXAMPLES / "emergence_in_60_lines.py"))
    upper = [0, *names["tree"].level(3), *names["tree"].level(2)]
    untrained, trained, null, ceiling = (
        names[name][upper] for name in ("untrained", "trained", "null", "ceiling")
    )
    assert (trained > untrained + 0.05).all()
    assert (trained > 3 * null).all()
    assert (trained < ceiling + 0.02).all()
    assert len(capsys.readouterr().out.splitlines()) == 5
