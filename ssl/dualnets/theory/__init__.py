"""The theory, executable: exact identities and dynamics of dual networks, one idea per file.

Identities of updates: `connection`, `covariance_operator`, `pairwise_operator`, `pair_update`,
`predicted_update`, `actual_update`, `loss_slopes`, `tree_operator`, `selectivity`. Dynamics, as modules:
`lucky` (order statistics of untrained units; `latent_inputs` says what they read, `simulated_best`
draws them), `two_layer` (four interventions), `batch_mean` (BatchNorm's implicit contrastive term),
`linear_byol` and `byol_modes` (conserved balance, fixed points, separatrix), `population_flow` (infinite
batches), `forecast` (who will win each latent).
"""

from dualnets.theory import (
    batch_mean,
    byol_modes,
    linear_byol,
    lucky,
    population_flow,
    two_layer,
)
from dualnets.theory.connection import Connection, connection
from dualnets.theory.covariance import covariance_operator
from dualnets.theory.enumeration import ViewTable, enumerate_views
from dualnets.theory.forecast import forecast
from dualnets.theory.latent_inputs import (
    BlockInputs,
    drawn_correlations,
    drawn_selectivities,
    latent_inputs,
    simulated_best,
)
from dualnets.theory.loss_slopes import Slopes, loss_slopes
from dualnets.theory.operator_form import check_operator_form
from dualnets.theory.operators import Eigenpairs, Estimate, Operator
from dualnets.theory.pairwise import PairwiseOperator, pairwise_operator, sampled_pairwise_operator
from dualnets.theory.population_flow import population_trajectory
from dualnets.theory.tree_operator import TreeOperator, selectivity, tree_operator
from dualnets.theory.update import actual_update, pair_update, predicted_update
from dualnets.theory.views import DatasetViews, TreeViews, Views

__all__ = [
    "BlockInputs",
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
    "batch_mean",
    "byol_modes",
    "check_operator_form",
    "connection",
    "covariance_operator",
    "drawn_correlations",
    "drawn_selectivities",
    "enumerate_views",
    "forecast",
    "latent_inputs",
    "linear_byol",
    "loss_slopes",
    "lucky",
    "pair_update",
    "pairwise_operator",
    "population_flow",
    "population_trajectory",
    "predicted_update",
    "sampled_pairwise_operator",
    "selectivity",
    "simulated_best",
    "tree_operator",
    "two_layer",
]
