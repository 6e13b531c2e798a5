"""Show the experiments, one line each."""

from __future__ import annotations

import sys

USAGE = "usage: hltm list\n\nShow the experiments, one line each.\n"


def main(arguments: list[str]) -> int:
    """Print one entry per experiment."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments:
        raise ValueError(f"list takes no options, got {' '.join(arguments)}")
    from dualnets import experiments

    for name in experiments.names():
        experiment = experiments.load(name)
        print(f"{name.replace('_', '-'):20}  {experiment.summary}")
    print(
        "\nThese are questions and claims, not answers: hltm claims shows what was found of each."
    )
    print("hltm run EXPERIMENT starts one; hltm run EXPERIMENT --help shows its settings.")
    sys.stdout.flush()
    return 0
