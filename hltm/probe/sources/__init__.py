"""What the user has, as batches of activations: networks, torch modules, arrays, folders.

- `open_source`: whatever is probed, as batches of activations
- `rows`: those of draws, of folders, or new ones
- `containers`: arrays of torch, numpy, pandas and lists, converted when their rows are read
- `torch_network`: any torch module as a network to probe; `encodings`: leaves as its input
- `capture`: activations of any torch module by name; `reading`: of which run, and which item
- `layer_axes`: which axis of a layer is the batch, and what becomes of its positions
- `undisturbed`: buffers and random states stay as they were; `refusal`: why a model does not run
"""
