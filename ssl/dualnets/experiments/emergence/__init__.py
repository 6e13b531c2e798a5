"""Which latents of a tree emerge, and what that depends on: one file per claim.

Private files are an experiment's own, but for `_kesten_stigum`, a rule of `polarity` and of `branching`.
"""
