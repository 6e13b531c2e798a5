"""What a latent tree is: its shape, its probabilities, and what follows from them exactly.

nodes         how nodes are given: by name, by number, in ranges
digest        a few bytes that tell trees with different tables apart
topology      the shape: parents, levels, children, names
tables        P(child | parent) of every node, as one flat array; making and checking it
states        the check that states are states of their nodes
intervene     tables with some nodes' probabilities replaced
filtered      tables without the correlations that high levels make
moments       closed forms for one and two nodes: marginals, correlations, mutual information
view_moments  closed forms for one node's states in two views of a sample
log_prob      the log probability of complete rows
enumeration   the joint distribution by enumeration: the reference that tests compare with
"""
