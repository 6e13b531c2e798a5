"""Rows of a data set as files that other programs read.

- `recipe`: everything that the files follow from, and the rows drawn by it
- `settings`: the arguments of an export, checked; written to the manifest and read from it
- `arrays`, `parquet`, `csv`: a writer and a reader of each type of file: npz and safetensors, Parquet, CSV
- `files`: all of these by suffix; a file appears whole or not at all
- `manifest`: the settings of a data set and its list of files
- `card`: the card of a data set for the Hugging Face hub
- `write`: `hltm.export`: shard after shard, resumed where it was interrupted
- `join`: `hltm.join`: folders whose rows follow each other become one
- `read`: `hltm.load`: the tree, columns that are read when they are used, tables, and items for a loader
- `column`, `rows`: one column; the rows of a file, and any in a batch
- `verify`: `hltm.verify`: checksums, and random rows drawn again and compared
"""
