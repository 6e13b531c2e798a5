"""The laboratory: from a claim to cells, a run on disk, numbers with their spread, and a verdict.

It knows no particular experiment. What an experiment declares, imported without torch:

- `experiment`: what an experiment is; `ablation`: one that compares named variants; `rules`: its rules
- `settings`, `method_settings`, `fields`: settings, their flags, checks and identity
- `grids`: from grids of settings to cells and their names

What runs it:

- `runner`: from an experiment to a run; `computing`, `workers`: its cells, in parallel; `store`: both on disk
- `ablation_cell`, `learning_curves`: one cell of an ablation; alignment along training
- `specialisation`: how well students' units follow those of their teacher

What it is read by:

- `stats`, `ratios`, `time_to_threshold`: intervals and exact tests; `variants`, `tidy`: comparisons, tables
- `claims`: the outcome of every claim; `report/`: figures and pages
"""
