"""Kernels, which draw states by address: `reference` runs anywhere and defines the bits, the others are fast.

A kernel is a function `draw(tables, request) -> list of (S, V - first, B) tensors`, one per view.

    request    what a kernel is asked to draw
    reference  torch, any device, any tree: the definition that `cpu` and `cuda` must equal bit for bit
    cpu        numba: shares tiles of samples among threads
    cuda       numba.cuda: tiles of samples shared among blocks of a GPU's threads
    cuda_tiles one tile through the whole tree and all views, its nodes shared among threads
    on_device  which kernel draws for a device that is not the CPU
    threads    compiled work split over plain threads
    tiles      one tile of samples through the whole tree and all views
    planes     binary nodes, bit by bit, 128 samples to a block
    guide      nodes of more than two states, one load from a guide table
    missing    whether views miss leaves
    generator  Philox words of many blocks
    bits       64 states as the bits of a word, and back
"""
