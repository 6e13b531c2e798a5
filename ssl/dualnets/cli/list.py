"""List the experiments, one line each."""

from __future__ import annotations

from dualnets.cli._flags import parse


def main(arguments: list[str]) -> int:
    """Print one line per experiment."""
    parse([], arguments, "hltm list", "List the experiments, one line each.")
    from dualnets import experiments

    for name in experiments.names():
        experiment = experiments.load(name)
        print(f"{experiment.flag:20}  {experiment.summary}")
    print("\nThese are questions and claims, not answers: hltm claims shows the outcome of each.")
    print("hltm run EXPERIMENT starts one; hltm run EXPERIMENT --help shows its settings.")
    return 0
