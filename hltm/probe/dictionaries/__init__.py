"""A sparse dictionary of activations, and what its features are for.

- `dictionary`: a top-k dictionary of one layer; `autoencoder`: how it is trained; `layer_rows`: on what
- `dictionary_scores`: recovery, splitting and absorption of latents' states, as one table
- `feature_scores`: what that is computed from
"""
