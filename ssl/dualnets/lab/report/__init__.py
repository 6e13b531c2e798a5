"""Figures and pages of runs.

- `page`: self-contained HTML page of a run; `explorer` (and its .js), `run_settings`: parts of it
- `site`, `index`: a folder of such pages, and the page over all runs and all claims
- `probe_page`: the page of a probe, and its tables by level
- `document` (and page.css, page.js), `tables`, `glossary`: what all pages are made of
- `style`: the style of all figures; `intervals`: means with their intervals, drawn
- `ablation_figure`, `sweep_figure`: the figures of ablations and of sweeps over a setting
"""
