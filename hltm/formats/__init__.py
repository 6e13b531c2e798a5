"""Trees in the formats of other programs and in our own.

files           `load_tree` and `save`: the formats of files, by suffix and content
json            our own format: every table to the last bit, every member at its address
networkx        graphs whose edges hold tables or polarities, both ways
graph_text      such graphs as GraphML, GML and node-link JSON
bif             Bayesian networks in BIF, both ways
bif_syntax      what may stand in a BIF text
newick          trees from Newick and NEXUS: shape, names and what branch lengths say
newick_writing  trees as Newick
newick_syntax   what may stand in a Newick text
nexus           the trees in a NEXUS text
branch_lengths  what a length says of a table: expected changes, or paralinear
rooted          edges as a rooted tree, or the reason why they make none; for networkx and BIF
"""
