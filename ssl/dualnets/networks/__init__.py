"""Networks. The contract with everyone else: `network(leaves)` and `network.activations(leaves)`."""
