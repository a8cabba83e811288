"""The trials of a search, kept beside the version that they led to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codetune.errors import RegistryError

SEARCH, TRIALS = "search.json", "trials.json"


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """Every trial of a finished search, from its artifact's folder.

    Raises:
        RegistryError: the file cannot be read.
    """
    found = _read(folder / TRIALS, "Delete its folder and search again.").get("trials")
    return found if isinstance(found, list) else []


def read_search(file: Path) -> Mapping[str, Any]:
    """A version's search.json.

    Raises:
        RegistryError: it cannot be read.
    """
    advice = "Run `codetune tune` with the same options again: the trials are kept."
    return _read(file, advice)


def _read(file: Path, advice: str) -> dict[str, Any]:
    try:
        values = json.loads(file.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise RegistryError(f"{file} cannot be read: {error}.", advice=advice) from error
    return values
