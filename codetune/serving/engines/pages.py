"""Large pages for what every step reads from beginning to end."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch


def on_large_pages(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor`, whose memory nobody has written to; Linux is asked to give it pages of 2 MB.

    Reading twenty megabytes of adapters in each step is a sixth faster without the look-ups of
    five thousand small pages. It is advice (`man 2 madvise`): where it is not taken, or there is
    none to give, nothing else changes.
    """
    if sys.platform == "linux" and tensor.device.type == "cpu":
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > begin:
            advise = ctypes.CDLL(None).madvise
            advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)
    return tensor
