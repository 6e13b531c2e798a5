"""Trees in other programs' words, one file each: networkx, Newick, BIF, and our own JSON."""
