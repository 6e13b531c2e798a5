"""Experiments, one file per claim, discovered.

Each has CLAIM (a sentence), PLACE (where the paper makes it), RESULT_VERSION (raised when its
numbers would change), Settings (a frozen dataclass of scalars and names: one ensemble), GRIDS
(scale -> list of {field: values}), `run_cell(settings, device, progress) -> Outcome`,
`summary(table)`, `plot(table) -> figure` and `verdict(table)`.
"""
