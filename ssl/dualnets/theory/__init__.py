"""The theory, executable: exact identities and dynamics of dual networks, one idea per file."""
