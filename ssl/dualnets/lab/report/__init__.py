"""Figures and pages of runs.

- `page`: self-contained HTML pages of a run and of a probe
- `style`: the style of all figures; `intervals`: means with their intervals, drawn
- `ablation_figure`, `sweep_figure`: the figures of ablations and of sweeps over a setting
"""
