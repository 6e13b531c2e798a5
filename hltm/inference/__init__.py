"""Exact answers about the nodes of a tree given its leaves.

evidence          what a user gives: leaves, or states and likelihoods by node
leaves            the check of states: of leaves, or of all nodes
frames            states in the columns of a data frame
messages          messages between nodes in torch: any device, differentiable
posterior         P(node | leaves) and P(leaves)
posterior_kernel  the same messages, compiled for the CPU
most_probable     joint states given leaves: the most likely one, and samples
expected_counts   how often states of a node and its parent meet, given evidence, compiled
fit               tables from leaves, by expectation-maximisation
ceiling           the best correlation with a node that any function of its leaves can have
"""
