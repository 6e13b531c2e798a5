"""Experiments on networks that predict leaves, beside the exact Bayes answers."""
