"""Numbers as people read them."""

from __future__ import annotations

# How a model that shares no batches is served, by its kind.
ALONE = {
    "adapter": "alone: requests to a DoRA adapter share no batch with other adapters",
    "full": "alone: a whole model of its own, beside the base in memory",
}

# What the streams of a dataset are; a set that was mixed in has its own name.
STREAMS = {
    "ntp": "whole texts",
    "fim": "fill in the middle",
    "sft": "instructions",
    "replay": "general code",
}


def count(number: float) -> str:
    """1234567 → "1,234,567"."""
    return f"{number:,}"


def bytes_(number: float) -> str:
    """1536 → "1.5 KB"; powers of 1000, as disks and networks count."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} bytes"


def percent(share: float) -> str:
    """0.0123 → "1.2 %"."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """75 → "1 min 15 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
