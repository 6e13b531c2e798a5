"""Hypothesis here tries the same examples every time, and leaves speed to the benchmarks."""

from hypothesis import settings

settings.register_profile("same", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("same")
