"""Causal probes: what units make of interventions, and whether a network uses them.

- `intervention`: what units make of do(latent = state), by counterfactual rows; `effect_table`: as a table
- `patching`: whether a network uses the units of a latent: their replacement, and the exact answer
- `figures`: latents by layers, and effects beside selectivities
- `replacing`: a run of a network in which some units have other values
- `flat_network`: a network with members in front and every layer as flat units
- `chosen_units`: which units stand for a latent
- `readout`: what a network answers about a latent
- `setup`: what patching and ablation begin with
- `contrasts`: differences between states of a latent, with standard error and null
- `do_ceiling`: the largest effect of an intervention that any function of the leaves can have
- `grouped_sums`: sums over rows, and standard errors of any function of them
- `scores`: what patched runs score, and their table
"""
