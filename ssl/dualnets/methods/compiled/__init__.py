"""Losses compiled for a CPU: value and gradient together, one member at a time in a core's cache.

- `operation`: a kernel as an operation of torch, and when it may be used
- `matching`, `ntxent`, `assignments`, `samples`: the kernels
- `in_place`: what methods keep from step to step, changed where it lies

Every operation has a plain twin in torch, which is the statement of what it computes, the reference in the
tests, and what runs on other devices and where a gradient is differentiated again.
"""
