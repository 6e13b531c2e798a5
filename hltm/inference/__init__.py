"""Exact answers about the nodes of a tree given what is known of them, and tables learned from it.

evidence          what a user gives: leaves, or states and likelihoods by node
leaves            the check of states that a user gives: of leaves, or of all nodes
frames            states in the columns of a data frame
messages          messages from the leaves to the root in torch: any device, differentiable
beliefs           posteriors from messages, and prior probabilities, in torch
scaling           numbers of any size in compiled kernels
blocks            what those kernels read, and their memory
upward_kernel     the messages, compiled for the CPU
posterior_kernel  posteriors, compiled for the CPU
posterior         P(node | evidence) and P(evidence)
joint_kernel      joint states given evidence, compiled for the CPU
most_probable     joint states given evidence: the most likely one, and samples
expected_counts   how often states of a node and its parent meet, given evidence, compiled
fit               tables from evidence, by expectation-maximisation
ceiling           the best correlation with a node that any function of its leaves can have
noise             what noise makes of leaves, as soft evidence, and the step back to less of it
gaussian          Gaussian noise
denoise           the exact denoiser, and samples of the reverse process
change            how far leaves change together when noise is put on and taken back
masks             which leaves are missing, by enumeration
prefixes          every leaf's posterior given those before it in an order
leaf_losses       the cross-entropy of masked, next and noisy leaves under a tree's posterior
bayes_loss        the least cross-entropy that any predictor of leaves can have
"""
