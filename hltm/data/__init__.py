"""Data sets of views for any torch code, and files for any program.

- `encode`: states as numbers: bits, signs, one-hot, embeddings, images
- `view_batches`: batches of views with targets, of any rows, by their addresses
- `dataset`: torch data sets of views: a fixed set of rows, and a stream of fresh rows
- `adapters`: batches in the shapes that lightly and solo-learn expect
- `export/`: rows as files: written in shards, read back, verified
"""
