"""What draws states from addresses: `reference` runs anywhere and defines the bits, the others are fast.

A kernel is a function `draw(tables, order) -> list of (S, V_kept, B) tensors`, one per view.
"""
