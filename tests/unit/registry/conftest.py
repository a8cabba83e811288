"""Finished stages for the registry's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .finished_stages import stages


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    return lambda *args, **kwargs: stages(tmp_path / "stages", *args, **kwargs)
