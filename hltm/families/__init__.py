"""Families of trees, one file each; a file's name is the name of the function that makes a tree."""
