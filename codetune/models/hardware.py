"""What this machine can do: cores, memory within its limits, GPUs, and whether bf16 is fast."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Instruction sets with a bf16 matrix product. Without one, torch emulates bf16 on the CPU,
# several times slower than float32.
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16", "svebf16"})
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Facts about this machine; memory in bytes."""

    cores: int  # that this process may use
    memory: int  # physical memory, or the container's limit where that is lower
    bf16_fast: bool
    gpus: tuple[tuple[str, int], ...] = ()  # name and memory of each CUDA device


@cache
def machine() -> Machine:
    """Look at this machine once per process."""
    import psutil

    gpus = _gpus()
    return Machine(
        cores=_cores(),
        memory=min(int(psutil.virtual_memory().total), memory_limit() or 1 << 62),
        bf16_fast=_gpu_bf16() if gpus else bool(_BF16_FLAGS & _cpu_flags()),
        gpus=gpus,
    )


def memory_limit() -> int | None:
    """The container's memory limit in bytes (cgroup v2 or v1), None where there is none."""
    return min((limit for limit, _ in _limited_groups()), default=None)


def memory_available() -> int:
    """Bytes that can still be allocated: the lowest of the machine's and each container's rest."""
    import psutil

    rests = [int(psutil.virtual_memory().available)]
    for limit, group in _limited_groups():
        used = _read(group / "memory.current") or _read(group / "memory.usage_in_bytes") or "0"
        # The page cache counts as used there, but the kernel gives it back under pressure.
        cache_lines = ("inactive_file ", "active_file ")
        statistics = _read(group / "memory.stat").splitlines()
        cached = sum(int(x.split()[1]) for x in statistics if x.startswith(cache_lines))
        rests.append(limit - int(used) + cached)
    return max(0, min(rests))


def matmul_flops(dtype_name: str, *, size: int = 1024, seconds: float = 0.3) -> float:
    """Measured floating-point operations per second of a `size`³ matrix product.

    `dtype_name` is "bfloat16" or "float32"; on the GPU where there is one. The best of
    several products counts, since other work on the machine only ever slows one down.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, dtype_name)
    left = torch.randn(size, size, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or best == float("inf"):
        start = time.perf_counter()
        left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        return max(1, min(allowed or 1, -(-int(quota) // int(period))))
    return allowed or 1


def _cpu_flags() -> set[str]:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.lower().startswith(("flags", "features")):
            return set(line.partition(":")[2].split())
    return set()


def _gpus() -> tuple[tuple[str, int], ...]:
    import torch

    if not torch.cuda.is_available():
        return ()
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return tuple((gpu.name, int(gpu.total_memory)) for gpu in found)


def _gpu_bf16() -> bool:
    import torch

    # Compute capability 8 (Ampere) is the first with bf16 tensor cores; older ones emulate.
    return torch.cuda.get_device_capability()[0] >= 8


def _limited_groups() -> list[tuple[int, Path]]:
    """Each cgroup with a memory limit that holds this process: (bytes, folder)."""
    folders = [_CGROUP, _CGROUP / "memory"]  # inside a container these are its own
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUP / "memory" if controllers else _CGROUP
        place = root / path.lstrip("/")
        folders += [f for f in (place, *place.parents) if f.is_relative_to(root)]
    found = []
    for folder in dict.fromkeys(folders):
        text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        # Version 1 writes "no limit" as a number near 2**63.
        if text.isdigit() and int(text) < 1 << 60:
            found.append((int(text), folder))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # absent on this kind of system: the caller has a default
        return ""
