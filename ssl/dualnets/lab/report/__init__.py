"""Figures and pages of runs.

- `page`: self-contained HTML page of a run; `probe_page`: of a probe, and its tables by level
- `style`: the style of all figures; `intervals`: means with their intervals, drawn
- `ablation_figure`, `sweep_figure`: the figures of ablations and of sweeps over a setting
"""
