"""What BYOL needs, part by part, and why: one file per claim.

`_byol` and `_verdicts` hold what these experiments share; other private files are an experiment's own.
"""
