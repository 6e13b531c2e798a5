"""Trees in the formats of other programs and in our own, one file each.

json      our own: every table to the last bit, every member at its address
networkx  a directed graph whose edges hold the tables, both ways
newick    phylogenetic trees, both ways: shape, names and branch lengths
bif       Bayesian networks as pgmpy, bnlearn and others read them
"""
