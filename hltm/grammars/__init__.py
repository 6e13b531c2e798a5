"""Probabilistic context-free grammars of any form, whose strings have probabilities known exactly.

pcfg         the grammar: strings, their probabilities, and posteriors of their constituents
rules        its rules, checked, and what follows from them alone
chart        inside probabilities of spans, in logarithms
derivations  strings drawn with the rules that made them
fixed_shape  the latent tree of a grammar whose strings all have one shape
text         rules as text, in the usual notation
"""
