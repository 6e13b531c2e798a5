"""What draws states from addresses: `reference` runs anywhere and defines the bits, `cpu` is fast.

A kernel is a function `draw(tables, order) -> list of (S, V_kept, B) tensors`, one per view.

    order      what is asked for
    reference  torch, any device, any tree: the oracle
    cpu        numba: shares tiles of samples among threads
    tiles      one tile through the whole tree and all views
    planes     binary nodes, bit by bit, 128 samples a block
    guide      nodes of more states, one look in a guide table
    generator  Philox words of many blocks
    bits       64 states as the bits of a word, and back
"""
