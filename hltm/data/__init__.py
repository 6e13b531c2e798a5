"""Data sets of views for any torch code, and files for any program.

- `encode`: states as numbers: bits, signs, one-hot, embeddings, images
- `view_batches`: batches of views with targets, of any rows, by their addresses
- `batch_items`: a batch as a sequence of items that torch's collation takes whole
- `passes`: which pass over a data set a row is read in, so that each has new views
- `dataset`: a torch data set of views of a fixed set of rows
- `stream`: a torch data set of whole batches in order, endless or not
- `labelled`: a torch data set of leaves and labels
- `sentences`: a torch data set of the strings of a grammar and their constituents
- `adapters`: batches in the shapes that lightly and solo-learn expect
- `export/`: rows as files: written in shards, read back, verified
"""
