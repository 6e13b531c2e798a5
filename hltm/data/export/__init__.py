"""Rows of a data set as files that other programs read: written in shards, read back, checked."""
