"""Trees in the formats of other programs and in our own, one file each.

json      our own: every table to the last bit, every member at its address
files     files of all these formats, by suffix and content
networkx  a graph whose edges hold tables or polarities, both ways
rooted    edges as a rooted tree, or the reason why they make none
graph_text      graphs as GraphML, GML and node-link JSON
newick    phylogenetic trees from text, NEXUS too: shape, names and branch lengths
newick_writing  the same, the other way
newick_syntax   what may stand in a Newick text, and where
newick_names    distinct names for its nodes
nexus           the trees in a NEXUS text
branch_lengths  what a length says of a table: expected changes, or paralinear
bif       Bayesian networks as pgmpy, bnlearn and others write and read them, both ways
bif_text        what may stand in a BIF text, and where
"""
