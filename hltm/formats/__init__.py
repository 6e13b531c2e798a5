"""Trees in the formats of other programs and in our own, one file each.

json      our own: every table to the last bit, every member at its address
networkx  a directed graph whose edges hold the tables, both ways
newick    phylogenetic trees from text, NEXUS too: shape, names and branch lengths
newick_writing  the same, the other way
newick_syntax   what may stand in a Newick text, and where
newick_names    distinct names for its nodes
nexus           the trees in a NEXUS text
branch_lengths  what a length says of a table: expected changes, or paralinear
bif       Bayesian networks as pgmpy, bnlearn and others read them
"""
