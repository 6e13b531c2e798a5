"""Damaged files: seeded mutations, and what every reader must make of them."""

import json
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

LONGEST = 300  # characters of a refusal, without the path of its file
SECONDS, MEMORY = 10.0, 1 << 30  # that one file may take, and more bytes than before
ODD = [
    None,
    True,
    -1,
    0,
    10**9,
    10**30,
    1.5,
    "",
    "x" * 500,
    "\0\x1b[31m[red]\n",
    "../../x",
    [],
    [[]],
    {},
]


def mutant(content: bytes, rng: random.Random) -> bytes:
    """A file's bytes, damaged in one of the ways that files are."""
    damaged, at = bytearray(content), rng.randrange(len(content))
    kind = rng.randrange(6)
    if kind == 0:
        return bytes(damaged[:at])
    if kind == 1:
        damaged[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        damaged[at : at + rng.randrange(1, 64)] = b""
    elif kind == 3:
        damaged[at:at] = rng.randbytes(rng.randrange(1, 64))
    elif kind == 4:
        damaged[at : at + 64] = bytes(64)
    else:
        damaged[at : at + 8] = rng.randbytes(8)
    return bytes(damaged)


def json_mutant(content: bytes, rng: random.Random) -> bytes:
    """JSON of which one value is removed or another; every other time its bytes are damaged."""
    if rng.random() < 0.5:
        return mutant(content, rng)
    whole = json.loads(content)
    inner = whole
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = rng.choice(keys)
        if not (isinstance(inner[key], dict | list) and inner[key]) or rng.random() < 0.3:
            break
        inner = inner[key]
    if rng.random() < 0.3:
        del inner[key]
    else:
        inner[key] = rng.choice(ODD)
    return json.dumps(whole).encode()


def check_reader(
    path: Path,
    read: Callable[[], object],
    refusals: type[Exception] | tuple[type[Exception], ...],
    count: int,
    check: Callable[[object], None] = lambda found: None,
    change: Callable[[bytes, random.Random], bytes] = mutant,
) -> int:
    """Read a file that is damaged `count` times, each time in another way; how many were refused.

    Args:
        path: the file; it is whole again afterwards.
        read: reads it.
        refusals: the exceptions that are a refusal, each of one short line; any other is a fault.
        count: how many mutants.
        check: raises where what was read is wrong.
        change: makes a mutant.
    """
    content, rng, refused = path.read_bytes(), random.Random(path.name), 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + MEMORY
    for at in range(count):
        path.write_bytes(change(content, rng))
        begun = time.monotonic()
        try:
            found = read()
        except refusals as error:
            refused += 1
            text = str(error).replace(str(path), path.name).replace(str(path.parent), "")
            assert "\n" not in text, (at, text)
            assert len(text) < LONGEST, (at, text)
        else:
            check(found)
        assert time.monotonic() - begun < SECONDS, at
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < most
    path.write_bytes(content)
    return refused
