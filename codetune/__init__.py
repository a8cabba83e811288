"""codetune turns a team's repositories into a code model of its own, and serves it.

`FineTuningConfig` and `PEFTAdapterManager` tune a model on a list of texts from Python; they
come from `codetune.finetuning` and are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in ("FineTuningConfig", "PEFTAdapterManager"):
        return getattr(import_module("codetune.finetuning"), name)
    raise AttributeError(f"module 'codetune' has no attribute '{name}'")
