"""Infinite batches: expected losses as finite sums over an enumerable tree, and training on them.

`population_loss` has the sums, `population_flow` gradient descent on them. docs/theory.md, Section 3.
"""
