"""BYOL: BatchNorm's implicit contrastive term, and the exact dynamics of linear BYOL.

`batch_mean` has the update below a subtracted batch mean; `linear_system` the equations of linear BYOL and
`linear_byol` their solution and conserved balance; `mode_equations` the equations of one mode and
`byol_modes` its fixed points and the border of collapse. docs/theory.md, Section 6.
"""
