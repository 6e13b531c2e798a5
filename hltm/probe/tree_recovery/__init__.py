"""Which tree a network learned: from distances between leaves to a tree, and how far it is from the truth.

- `exact_distances`: distances of leaves of a tree with tables, and the splits that they can show
- `leaf_distances`: distances from a draw's states, or as activations show them
- `distance_sources`: whichever of them a source has
- `joining`: neighbour joining and recursive grouping
- `edges`: lengths of a joined tree's edges, and the tree without those that are not there
- `splits`: the splits of a tree and the Robinson-Foulds distance
- `recover`: all of it in one call; `recovered`, `figure`: what it gives
"""
