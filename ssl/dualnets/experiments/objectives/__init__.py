"""What other losses, methods, labels and teachers make of the same trees: one file per claim.

Private files are an experiment's own.
"""
