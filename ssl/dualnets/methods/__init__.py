"""Methods of learning without labels, one file each, behind one protocol."""
