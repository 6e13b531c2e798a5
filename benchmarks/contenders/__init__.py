"""Ways of training one ensemble from the same numbers and rows, which `training.py` compares."""
