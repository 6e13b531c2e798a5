"""Milliseconds for views of 1,000 pictures: ours, kornia's and torchvision's, in turns in one process.

    python benchmarks/images_views.py               # wall time, a minute; 1 and 2 threads
    python benchmarks/images_views.py --cpu-time    # seconds of the process, on a machine others use too

kornia and torchvision draw their own random numbers. torchvision's transforms give all pictures of a call
the same random numbers, so that they are called picture by picture. Without one of the two, its column is
empty. Medians over rounds, after a first one that is not counted.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from dualnets.images import parse_views
from hltm.sampling.philox import Stream

CASES = {
    "1x28x28": ["crop:0.4", "shift:4", "flip", "blur:1", "light:0.4", "noise:0.1", "default", "simclr"],
    "3x32x32": ["crop:0.08", "flip", "blur:1", "light:0.4", "jitter:0.8:0.8:0.2:1", "grey", "simclr", "byol"],
}  # fmt: skip
Way = Callable[[], object]


def ours(text: str, pictures: torch.Tensor) -> Way:
    augment = parse_views(text)
    address: dict[str, Any] = {"seed": 0, "stream": Stream.DATA, "members": [0], "view": 1}
    return lambda: augment.views(pictures, **address)


def kornias(text: str, pictures: torch.Tensor) -> Way | None:
    try:
        import kornia.augmentation as k
    except ImportError:
        return None
    channels, *size = pictures.shape[1:]
    jitter = (0.8, 0.8, 0.8, 0.2) if channels == 3 else (0.8, 0.8)
    parts: dict[str, Callable[[], Any]] = {
        "crop:0.4": lambda: k.RandomResizedCrop(tuple(size), (0.4, 1.0)),
        "crop:0.08": lambda: k.RandomResizedCrop(tuple(size), (0.08, 1.0)),
        "shift:4": lambda: k.RandomCrop(tuple(size), padding=4),
        "flip": k.RandomHorizontalFlip,
        "blur:1": lambda: k.RandomGaussianBlur((9, 9), (0.1, 2.0), p=1.0),
        "blur": lambda: k.RandomGaussianBlur((9, 9), (0.1, 2.0), p=0.5),
        "blur:0.55": lambda: k.RandomGaussianBlur((9, 9), (0.1, 2.0), p=0.55),
        "light:0.4": lambda: k.ColorJitter(0.4, 0.4, p=1.0),
        "light:0.8:0.8": lambda: k.ColorJitter(*jitter, p=0.8),
        "jitter:0.8:0.8:0.2": lambda: k.ColorJitter(*jitter, p=0.8),
        "jitter:0.8:0.8:0.2:1": lambda: k.ColorJitter(*jitter, p=1.0),
        "jitter:0.4:0.2:0.1": lambda: k.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
        "grey": lambda: k.RandomGrayscale(p=0.2),
        "solarise:0.1": lambda: k.RandomSolarize(0.0, 0.0, p=0.1),
        "noise:0.1": lambda: k.RandomGaussianNoise(std=0.1, p=1.0),
    }
    transform = torch.nn.Sequential(*(parts[each]() for each in spelled(text, pictures)))
    numbers = pictures / 255
    return lambda: transform(numbers)


def torchvisions(text: str, pictures: torch.Tensor) -> Way | None:
    try:
        v2 = torchvision_transforms()
    except ImportError:
        return None
    channels, *size = pictures.shape[1:]
    jitter = (0.8, 0.8, 0.8, 0.2) if channels == 3 else (0.8, 0.8)
    blur = v2.GaussianBlur(9, (0.1, 2.0))
    parts = {
        "crop:0.4": v2.RandomResizedCrop(size, (0.4, 1.0)),
        "crop:0.08": v2.RandomResizedCrop(size, (0.08, 1.0)),
        "shift:4": v2.RandomCrop(size, padding=4),
        "flip": v2.RandomHorizontalFlip(),
        "blur:1": blur,
        "blur": v2.RandomApply([blur], 0.5),
        "blur:0.55": v2.RandomApply([blur], 0.55),
        "light:0.4": v2.ColorJitter(0.4, 0.4),
        "light:0.8:0.8": v2.RandomApply([v2.ColorJitter(*jitter)], 0.8),
        "jitter:0.8:0.8:0.2": v2.RandomApply([v2.ColorJitter(*jitter)], 0.8),
        "jitter:0.8:0.8:0.2:1": v2.ColorJitter(*jitter),
        "jitter:0.4:0.2:0.1": v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
        "grey": v2.RandomGrayscale(0.2),
        "solarise:0.1": v2.RandomSolarize(0.5, 0.1),
        "noise:0.1": v2.GaussianNoise(sigma=0.1),
    }
    transform = v2.Compose([parts[each] for each in spelled(text, pictures)])
    numbers = pictures / 255
    return lambda: torch.stack([transform(picture) for picture in numbers])


def torchvision_transforms() -> Any:
    """Its transforms; a build for another torch lacks compiled operators, which they do not use."""
    register = torch.library.register_fake
    torch.library.register_fake = lambda *_, **__: lambda function: function
    try:
        from torchvision.transforms import v2
    finally:
        torch.library.register_fake = register
    return v2


def spelled(text: str, pictures: torch.Tensor) -> list[str]:
    return [str(each) for each in parse_views(text).for_shape(pictures.shape[1:]).operations]


def main() -> None:
    parser = argparse.ArgumentParser(description="Milliseconds for views of 1,000 pictures.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    print(f"Python {platform.python_version()}, torch {torch.__version__}; {platform.processor()}")
    for name in ("kornia", "torchvision"):
        try:
            print(name, __import__("importlib.metadata").metadata.version(name))
        except ImportError:
            print(name, "is not installed")
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"\n{threads} thread{'s' * (threads > 1)}, ms per 1,000 pictures\n")
        print("| pictures | views | hltm | kornia | torchvision |\n|---|---|---|---|---|")
        for shape, texts in CASES.items():
            size = tuple(map(int, shape.split("x")))
            generator = torch.Generator().manual_seed(0)
            pictures = torch.randint(0, 256, (1000, *size), dtype=torch.uint8, generator=generator)
            for text in texts:
                ways = [make(text, pictures) for make in (ours, kornias, torchvisions)]
                spent: list[list[float]] = [[] for _ in ways]
                for _ in range(options.rounds + 1):
                    for way, own in zip(ways, spent, strict=True):
                        if way is not None:
                            t0 = clock()
                            way()
                            own.append(clock() - t0)
                shown = [f"{1000 * statistics.median(own[1:]):.0f}" if own else "" for own in spent]
                print(f"| {shape} | `{text}` | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
