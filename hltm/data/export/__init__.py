"""Rows of a data set as files that other programs read.

- `recipe`: everything that the files follow from, and the rows drawn by it
- `files`: one writer and one reader per format; each file appears whole or not at all
- `manifest`: manifest.json: the settings of a data set and its list of files
- `card`: the card of a data set for the Hugging Face hub
- `write`: `hltm.export`: shard after shard, resumed where it was interrupted
- `read`: `hltm.load`: the tree, and columns that are read when they are used
- `verify`: `hltm.verify`: checksums, and random rows drawn again and compared
"""
