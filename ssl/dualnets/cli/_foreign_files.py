"""Files of other programs: what is damaged, too large or of another kind is refused in one sentence."""

from __future__ import annotations

import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hltm._names import brief

FREE = 1 << 28  # bytes that a file may unpack to whatever it is packed into
PACKED = 100  # beyond that, times its own size; activations shrink by less than 10


class UnreadableError(ValueError):
    """A file that does not hold what it should, in one sentence."""

    def __init__(self, path: str, fault: str) -> None:
        super().__init__(f"{brief(path, 80)}: {fault}")


def check_plain(path: str) -> None:
    """Raise unless a path is a file: a pipe would be waited for.

    Raises:
        UnreadableError: a folder, a pipe or a device.
        OSError: there is none.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnreadableError(path, "is not a plain file")


@contextmanager
def refusing(path: str) -> Iterator[None]:
    """Raise one sentence for whatever the readers of other packages raise at a damaged file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:  # zlib's, zipfile's, struct's, ast's, arrow's …: no list is complete
        if isinstance(error, OSError) and error.filename:
            raise
        raise UnreadableError(path, f"is damaged or of another format: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The type and the text of an error, in one short line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an error of the user's own whose text is another error
        text = ""
    return brief(f"{type(error).__name__}: {text}" if text else type(error).__name__, 120)


def check_size(path: str, size: float) -> None:
    """Raise for more bytes than the file can honestly be packed from, or than there is memory."""
    stored = os.path.getsize(path)
    if size > max(FREE, PACKED * stored):
        raise UnreadableError(
            path, f"its {stored:,} bytes would unpack to {size:,}, more than {PACKED} times as many"
        )
    if size > memory():
        raise UnreadableError(path, f"its layers have {size:,} bytes, the memory has {memory():,}")


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def load_torch(path: str) -> Any:
    """What `torch.save` wrote: tensors in plain containers, with checksums compared first.

    Raises:
        UnreadableError: a file of another kind, or one that holds other objects.
    """
    import torch

    with refusing(path):
        if not zipfile.is_zipfile(path):
            raise UnreadableError(path, "is no file of torch.save (since torch 1.6), or is cut off")
        with zipfile.ZipFile(path) as archive:
            check_size(path, sum(info.file_size for info in archive.infolist()))
            damaged = archive.testzip()  # torch does not compare checksums
        if damaged is not None:
            raise UnreadableError(path, f"is damaged at '{brief(damaged)}'")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            if "weights_only" not in str(error).lower() and "WeightsUnpickler" not in str(error):
                raise
            raise UnreadableError(
                path, "holds Python objects, which are not unpickled; expected tensors by name"
            ) from error
