"""Show the experiments: the claim each one tests, and where the paper makes it."""

from __future__ import annotations

import sys

USAGE = "usage: hltm list\n\nShow the experiments, the claim each one tests, and its place in the paper.\n"


def main(arguments: list[str]) -> int:
    """Print one entry per experiment."""
    if arguments:
        print(USAGE, end="")
        return 0 if arguments[0] in ("-h", "--help") else 2
    from dualnets import execute

    for name in execute.names():
        experiment = execute.load(name)
        print(f"{name.replace('_', '-')}\n  {experiment.CLAIM}\n  {experiment.PLACE}")
    print("\nhltm run EXPERIMENT starts one; hltm run EXPERIMENT --help shows its settings.")
    sys.stdout.flush()
    return 0
