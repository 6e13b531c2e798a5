"""The memory of this machine, and what cannot fit it, which is refused before any work."""

from __future__ import annotations

import os


def physical_memory() -> int:
    """Bytes of memory that the machine has; 2^63 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return 1 << 63


def check_fits(what: str, size: float, remedy: str) -> None:
    """Check that so many bytes fit the memory of the machine.

    Raises:
        MemoryError: they do not.

    Example:
        >>> check_fits("tables", 1e18, "lower members")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        MemoryError: tables would take 1,000,000,000.0 GB, this machine has ... GB: lower members
    """
    there = physical_memory()
    if size > there:
        raise MemoryError(
            f"{what} would take {size / 1e9:,.1f} GB, this machine has {there / 1e9:,.1f} GB: {remedy}"
        )
