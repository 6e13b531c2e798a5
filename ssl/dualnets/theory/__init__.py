"""The theory, executable: exact identities and dynamics of dual networks, one idea per file."""

from dualnets.theory.connection import Connection, check_operator_form, connection
from dualnets.theory.covariance import covariance_operator
from dualnets.theory.enumeration import ViewTable, enumerate_views
from dualnets.theory.loss_slopes import Slopes, loss_slopes
from dualnets.theory.operators import Eigenpairs, Estimate, Operator
from dualnets.theory.pairwise import PairwiseOperator, pairwise_operator, sampled_pairwise_operator
from dualnets.theory.tree_operator import TreeOperator, selectivity, tree_operator
from dualnets.theory.update import actual_update, pair_update, predicted_update
from dualnets.theory.views import DatasetViews, TreeViews, Views

__all__ = [
    "Connection",
    "DatasetViews",
    "Eigenpairs",
    "Estimate",
    "Operator",
    "PairwiseOperator",
    "Slopes",
    "TreeOperator",
    "TreeViews",
    "ViewTable",
    "Views",
    "actual_update",
    "check_operator_form",
    "connection",
    "covariance_operator",
    "enumerate_views",
    "loss_slopes",
    "pair_update",
    "pairwise_operator",
    "predicted_update",
    "sampled_pairwise_operator",
    "selectivity",
    "tree_operator",
]
