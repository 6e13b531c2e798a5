"""The theorems of the paper, measured: one file per claim (docs/theory.md, Section 8).

`_digits` holds real images for `update`; other private files are an experiment's own.
"""
