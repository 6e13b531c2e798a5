"""Which tree a network learned: from distances between leaves to a tree, and how far it is from the truth.

- `leaf_distances`: distances of leaves, from a draw's states or as activations show them;
  `exact_distances`: those of a tree
- `joining`: neighbour joining and recursive grouping
- `edges`: lengths of a joined tree's edges, and the tree without those that are not there
- `splits`: the splits of a tree and the Robinson-Foulds distance
- `recovered`: a recovered tree beside the true one; `recover`: all of it in one call
"""
