"""What is read from a source."""

from __future__ import annotations

import datetime
from typing import Any

from pydantic import field_validator

from codetune.options import Options, option


class SourceOptions(Options):
    """Options of `collect`."""

    ref: str | None = option(
        None, description="Branch, tag or commit that is read as the present; default: HEAD."
    )
    cutoff: float | str | None = option(
        0.1,
        description="Where the past ends: a share of the newest first-parent commits that are "
        "held out as the future (0.1), an ISO date (2026-01-31), a commit, or null for no split "
        "by time.",
    )
    include: tuple[str, ...] = option(
        (), description="Read only paths that match one of these gitignore-style patterns."
    )
    exclude: tuple[str, ...] = option(
        (), description="Skip paths that match one of these gitignore-style patterns."
    )
    largest_file: int = option(
        1_000_000, gt=0, description="Larger files (bytes) are listed as too_large and not read."
    )
    commits: int | None = option(
        None,
        ge=0,
        description="Small changes of the past's commits to collect, newest first, at most; "
        "default: 4000 if instructions are made of them (dataset.use_sft), else 0.",
    )
    timeout: int = option(
        900, gt=0, description="Seconds that a clone or fetch may take before it is given up."
    )

    @field_validator("cutoff", mode="before")
    @classmethod
    def _dates_of_yaml(cls, value: Any) -> Any:
        """YAML reads 2026-01-31 as a date, not as text."""
        return value.isoformat() if isinstance(value, datetime.date) else value

    @field_validator("cutoff")
    @classmethod
    def _share(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not 0 <= value < 1:
            raise ValueError("a share lies between 0 and 1 (0.1 holds out the newest tenth)")
        return value
