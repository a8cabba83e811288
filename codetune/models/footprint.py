"""Memory that libraries keep after its use, bounded: oneDNN's kernels, the C library's heap.

In bf16 on a CPU, PyTorch asks oneDNN for a kernel of its own for each shape of a product, half a
megabyte or more each, and keeps the last 1,024 of them, more than half a gigabyte beside a model
of 10 MB. Training and scoring see ever new shapes, and use one a few times in a row.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

# What a thread needs forward and backward, with LoRA, fits in about a hundred. With 512, tuning by
# two threads was at most 4 % faster, and took 0.3 GB more.
KERNELS = 256
VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


def bound_kernels() -> None:
    """Let this process and its children keep few kernels, unless the user has chosen a number.

    oneDNN and PyTorch's ideep read the variables at their first product: call this before it. An
    engine that serves is better off with more: its batches come back to the same shapes.
    """
    for name in VARIABLES:
        os.environ.setdefault(name, str(KERNELS))


def give_back() -> None:
    """Return the heap's free pages to the system: glibc keeps them between the pieces in use.

    For the end of a piece of work: what comes next is of other sizes, does not fit into the holes
    and makes the heap longer. After every batch it would cost a seventh of the time, as the
    same pages are asked for again.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    """glibc's malloc_trim; None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
