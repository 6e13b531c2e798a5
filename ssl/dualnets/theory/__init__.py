"""The theory, executable: exact identities and dynamics of dual networks, one idea per file.

Identities of updates: `connection`, `covariance_operator`, `pairwise_operator`, `pair_update`,
`predicted_update`, `actual_update`, `loss_slopes`, `tree_operator`, `selectivity`. Dynamics, as modules:
`lucky` (order statistics of untrained units; `latent_inputs` says what they read, `simulated_best`
draws them), `two_layer` (four interventions), `batch_mean` (BatchNorm's implicit contrastive term),
`linear_byol` and `byol_modes` (conserved balance, fixed points, separatrix), `population_flow` (infinite
batches), `forecast` (who will win each latent).
"""

from dualnets.theory.byol import batch_mean, byol_modes, linear_byol
from dualnets.theory.hierarchy import lucky, two_layer
from dualnets.theory.hierarchy.forecast import forecast
from dualnets.theory.hierarchy.latent_inputs import (
    BlockInputs,
    drawn_correlations,
    drawn_selectivities,
    latent_inputs,
    simulated_best,
)
from dualnets.theory.hierarchy.tree_operator import TreeOperator, selectivity, tree_operator
from dualnets.theory.population import population_flow
from dualnets.theory.population.population_flow import population_trajectory
from dualnets.theory.updates.connection import Connection, connection
from dualnets.theory.updates.covariance import covariance_operator
from dualnets.theory.updates.enumeration import ViewTable, enumerate_views
from dualnets.theory.updates.loss_slopes import Slopes, loss_slopes
from dualnets.theory.updates.operator_form import check_operator_form
from dualnets.theory.updates.operators import Eigenpairs, Operator, OperatorEstimate
from dualnets.theory.updates.pairwise import (
    PairwiseOperator,
    pairwise_operator,
    sampled_pairwise_operator,
)
from dualnets.theory.updates.update import actual_update, pair_update, predicted_update
from dualnets.theory.updates.views import DatasetViews, TreeViews, ViewPair

__all__ = [
    "BlockInputs",
    "Connection",
    "DatasetViews",
    "Eigenpairs",
    "Operator",
    "OperatorEstimate",
    "PairwiseOperator",
    "Slopes",
    "TreeOperator",
    "TreeViews",
    "ViewPair",
    "ViewTable",
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
