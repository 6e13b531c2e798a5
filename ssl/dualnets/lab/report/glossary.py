"""The terms of pages and tables, each explained once: for pages and for the legends of the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

TERMS = {  # the first sentence is short, and says it alone
    "accuracy": "The share of held-out pictures whose label a probe finds. It reads the network's output.",
    "alignment": "How well the best candidate unit follows a latent. It is the largest |correlation| of a "
    "unit with it, or the largest correlation ratio where a latent has more than two states.",
    "below null": "Latents, or units, that score no better than the null.",
    "candidates": "The units among which a latent's best is looked for. In a tree network they are its own "
    "block, in a dense one the whole layer.",
    "ceiling": "The best score that any function of the leaves reaches. Of a latent with more than two "
    "states it is the best correlation with any function of the state, so 1 need not mean that the state can "
    "be decoded. Pictures have none that is known; there an accuracy of 1 takes its place.",
    "collapsed": "Embeddings that hardly differ between inputs: a spread near 0.",
    "control": "The same with nothing to be learned, e.g. views that share nothing. What also grows there "
    "is no effect.",
    "correlation ratio": "The square root of the variance share that a latent explains. It is "
    "used for latents with more than two states.",
    "dead units": "Units that are 0 on every input. They can neither follow anything nor learn.",
    "diverged": "Numbers that grew beyond what can be represented. Training stopped there.",
    "effective rank": "The number of directions in which embeddings vary. Each is counted by its share of "
    "the variance.",
    "emerges": "Whether the rule finds that training aligned units with these latents.",
    "fails": "The numbers speak against the claim. The rule was fixed before the run.",
    "flat": "Whether a curve has reached its plateau.",
    "gap closed": "The share of the way from untrained to ceiling that training went. 0 is no change, "
    "1 is the ceiling, and below 0 training made it worse.",
    "half gap at": "The number of updates after which half of the gap is closed. It is the median of trees, "
    "with its 95% interval.",
    "holds": "The numbers support the claim. The rule was fixed before the run.",
    "initial": "The value of the untrained network. It is not 0: random units are already aligned.",
    "interval": "The 95% interval, in brackets or as ± half of its width. It comes from a procedure that "
    "covers the true value in 95% of repetitions with other trees or networks.",
    "latent": "A hidden node of the tree that generates the data. Its leaves alone are seen.",
    "linear cka": "How alike activations and exact posteriors are. It is HSIC(x, y) / sqrt(HSIC(x, x) "
    "HSIC(y, y)) of linear kernels: 1 where they are the same up to a rotation and one scale, and 0 on "
    "average where they are independent.",
    "level": "Levels are counted from the leaves, which are level 0, up to the root. A node's level is its "
    "height above its deepest leaf, so where leaves differ in depth some hang from a high node.",
    "n": "The number of independent values behind a number. They are trees, each with a network of its own, "
    "or networks on pictures.",
    "matched": "The score where each unit stands for one latent at most. The assignment is the one with the "
    "largest sum.",
    "null": "The 95% quantile of what meaningless units score. A score that is no better is no evidence.",
    "open": "The run does not decide. There are too few trees, curves that are not flat, an interval on both "
    "sides of a bound, or settings of one's own.",
    "p": "The probability of a difference at least this large if there were none. It is multiplied by the "
    "number of tests.",
    "partial correlation": "The best unit's correlation with a latent given its parent. Rows of equal "
    "state of the parent are compared. A unit that only follows the parent has 0.",
    "plateau": "The flat end of a curve. Over the last half of the updates it changes by no more than is "
    "allowed; without it there is no verdict on the end of training.",
    "rank correlation": "Spearman's: the correlation of two orders. It is 1 where they are the same.",
    "rival": "The other latent that a latent's best unit follows most. Its value is the correlation "
    "ratio of the unit with it.",
    "rival baseline": "The score of the rival's exact posterior for this latent. A unit that "
    "only follows the rival reaches this.",
    "root": "The top latent; alone, the best |correlation| with it after training. Every leaf "
    "descends from it.",
    "selectivity": "Half the difference of a unit's means in a latent's two states. It is Equation "
    "4.2 of docs/theory.md.",
    "spread": "How differently embeddings of different inputs point. 0 is a collapse to a point, 1 is "
    "everywhere. Probes call it feature spread.",
}
SPELLED = {  # how terms stand in tables and sentences -> the term
    "best |correlation|": "alignment", "|correlation|": "alignment", "before": "initial",
    "rank": "effective rank", "ceilings": "ceiling", "latents": "latent", "levels": "level",
    "95% interval": "interval", "intervals": "interval", "95% intervals": "interval",
    "collapse": "collapsed", "collapses": "collapsed", "diverge": "diverged", "lost": "diverged",
    "emerge": "emerges", "linear all": "accuracy", "linear few": "accuracy", "null value": "null",
    "embedding": "spread", "gaps closed": "gap closed", "feature spread": "spread", "rivals": "rival",
    "half of the gap at": "half gap at",
}  # fmt: skip
# in a heading such as `ratio when level` these words are no terms; alone, or at its start, they are
WHOLE = {"p", "n", "level", "levels", "rank", "before", "initial", "open", "holds", "fails", "control",
         "lost", "latent", "latents", "embedding", "root"}  # fmt: skip
# in sentences these are everyday words
NOT_IN_PROSE = {"p", "n", "level", "levels", "before", "initial", "open", "holds", "fails", "control",
                "candidates", "flat", "lost", "latent", "latents", "rank", "root", "emerge",
                "emerges"}  # fmt: skip
_SPELLINGS = {**{term: term for term in TERMS}, **SPELLED}


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words as wholes, longer ones first."""
    longest = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<![\w|])(?:{'|'.join(map(re.escape, longest))})(?![\w|])", re.IGNORECASE)


_ANYWHERE = _pattern(_SPELLINGS.keys() - WHOLE)
PROSE = _pattern(_SPELLINGS.keys() - NOT_IN_PROSE)


def term_of(words: str) -> str | None:
    """The term that a heading of a table is, or has in it; None if there is none.

    Example:
        >>> term_of("gap closed ≥ 2"), term_of("p grown"), term_of("ratio when level"), term_of("units")
        ('gap closed', 'p', None, None)
    """
    plain = words.replace("_", " ").strip().lower()
    if plain in _SPELLINGS:
        return _SPELLINGS[plain]
    if found := _ANYWHERE.search(plain):
        return _SPELLINGS[found[0]]
    first = plain.partition(" ")[0]
    return _SPELLINGS[first] if first in WHOLE else None


def legend(headings: Iterable[str]) -> dict[str, str]:
    """Term -> the first sentence of its explanation, of the terms in headings, each once.

    A term has the name that it has in the heading, where this is the whole heading.

    Example:
        >>> list(legend(["variant", "ceiling", "gap closed ≥ 2", "n"]))
        ['ceiling', 'gap closed', 'n']
        >>> legend(["ceiling"])["ceiling"]
        'The best score that any function of the leaves reaches.'
        >>> list(legend(["before", "rank", "p grown"]))
        ['before', 'rank', 'p']
    """
    named: dict[str, str] = {}
    for words in map(str, headings):
        if term := term_of(words):
            named.setdefault(term, words if words in SPELLED else term)
    return {name: re.split(r"(?<=\.) (?=[A-Z0])", TERMS[term])[0] for term, name in named.items()}
