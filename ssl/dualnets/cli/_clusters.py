"""The flag that names a cluster."""

from __future__ import annotations

from dualnets.cli._flags import Flag
from dualnets.lab.clusters import check_cluster


def cluster_flag(work: str) -> Flag:
    """The flag of a command whose workers do this."""
    return Flag(
        "cluster",
        f"Dask workers that {work} in place of processes: local:4 for four on this machine, or the "
        "address of a scheduler, tcp://host:port; they must see the same folder.",
        default="",
        metavar="WHERE",
    )


def check_workers(workers: int, cluster: str, fewest: int = 0) -> None:
    """Raise a ValueError of a number of processes or a cluster that cannot be, or of both."""
    if workers < fewest:
        raise ValueError(f"workers must be at least {fewest}, got {workers}")
    if cluster:
        check_cluster(cluster)
        if workers != fewest:
            raise ValueError(f"--workers {workers} has no effect with --cluster {cluster}")
