"""Dask clusters by their text, `local:4` or `tcp://host:port`, as executors."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from dualnets.lab.workers import interrupts_blocked

WAIT = 10  # seconds for a scheduler to answer
FORMS = "local:N with N workers on this machine, e.g. local:4, or the address of a Dask scheduler, e.g. " \
    "tcp://10.0.0.1:8786"  # fmt: skip


def check_cluster(text: str) -> int | str:
    """The number of local workers, or the address of a scheduler.

    Raises:
        ValueError: another text, or the package `distributed` is missing.

    Example:
        >>> check_cluster("tcp://10.0.0.1:8786")
        'tcp://10.0.0.1:8786'
        >>> check_cluster("local:0")
        Traceback (most recent call last):
        ValueError: cluster must be local:N with N workers on this machine, e.g. local:4, or the address of a
        Dask scheduler, e.g. tcp://10.0.0.1:8786, got 'local:0'
    """
    from importlib.util import find_spec

    local = re.fullmatch(r"local:([1-9][0-9]{0,3})", text, re.ASCII)
    port = re.fullmatch(
        r"(?:tcp|tls)://(?:[^\s:/@\[\]]+|\[[0-9a-fA-F:.]+\]):([0-9]{1,5})", text, re.ASCII
    )
    if not local and not (port and 0 < int(port[1]) < 1 << 16):
        raise ValueError(f"cluster must be {FORMS}, got {text!r}")
    if find_spec("distributed") is None:
        raise ValueError(f"cluster {text} needs Dask: python -m pip install distributed")
    return int(local[1]) if local else text


@contextlib.contextmanager
def connected(text: str) -> Iterator[Executor]:
    """An executor on a cluster; its own workers end with the block, other people's go on.

    Args:
        text: `local:4` for workers on this machine, each a process with one thread, or the address of a
            scheduler that runs, `tcp://host:port` or `tls://host:port`.

    Raises:
        ValueError: another text, or the package `distributed` is missing.
        OSError: no scheduler answers.

    Example:
        >>> with connected("local:1") as executor:
        ...     executor.submit(len, "abc").result()
        3
    """
    where = check_cluster(text)
    import dask
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        # a connection that is lost shows in our error; Dask's own words for it, and Tornado's, on which it
        # runs, are tracebacks
        stack.enter_context(_quiet("distributed", "tornado"))
        if isinstance(where, int):
            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 1}))
            # in a thread, which Ctrl-C does not interrupt: one that is half started cannot be closed
            with interrupts_blocked(), ThreadPoolExecutor(1) as starting:
                local = starting.submit(
                    LocalCluster,
                    n_workers=where,
                    threads_per_worker=1,
                    dashboard_address=None,
                    # any port that is free; its own one may be taken, of which it would warn
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    # each worker may fill the memory, as processes without Dask may
                    memory_limit=0,
                    silence_logs=logging.CRITICAL,
                )
                stack.callback(lambda: local.result().close())
            at: Any = local.result()
        else:
            at = where
        try:
            client = stack.enter_context(Client(at, timeout=WAIT, set_as_default=False))
        except OSError as error:
            raise OSError(f"no Dask scheduler answers at {text} within {WAIT} seconds") from error
        if not client.scheduler_info()[
            "workers"
        ]:  # they may still come, as jobs that wait in a queue
            print(f"hltm: {text} has no workers yet; the work waits for one", file=sys.stderr)
        yield client.get_executor(pure=False)


def executor_of(text: str) -> contextlib.AbstractContextManager[Executor | None]:
    """As `connected`; None without a text."""
    return connected(text) if text else contextlib.nullcontext()


@contextlib.contextmanager
def _quiet(*packages: str) -> Iterator[None]:
    """Let the loggers of packages be silent."""
    every = [each for each in logging.root.manager.loggerDict if each.partition(".")[0] in packages]
    loud = [logger for logger in map(logging.getLogger, every) if not logger.disabled]
    for logger in loud:
        logger.disabled = True
    try:
        yield
    finally:
        for logger in loud:
            logger.disabled = False
