"""Draws of states from a tree, each by its address, so that any part of a data set can be made anew.

philox   the random number generator, and the address of every random number
rules    from a topology to a rate per node
augment  augmentations: a redraw rate per node and a missing rate per leaf
draw     what a draw is: states and their address
observed what a view shows of its leaves: missing and flipped ones
sample   draws of consecutive samples, of their views, and redraws below some nodes
counterfactual  what the same random numbers make of other tables at some nodes
rows     draws of any samples in any order, such as a shuffled batch
packed   draws of binary trees with one bit per state
kernels/ the code that makes the states: a reference in torch and a fast one in numba
"""
