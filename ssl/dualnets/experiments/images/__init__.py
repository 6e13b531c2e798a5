"""The paper's ablations on real pictures, beside the same ablations on trees: one file per experiment.

`_pictures` holds what these experiments share. Their variants and rules are those of the experiments on
trees.
"""
