"""The team's repository and the command line as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.journey.team import QUICK, Codetune, make_repository

# Every run of these tests is offline: a call that would leave the machine fails it.
OFFLINE = Path(__file__).parent / "offline"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("team") / "warehouse-rules")


@pytest.fixture(scope="session")
def codetune() -> Codetune:
    """Run the command line in a process of its own, offline; `home` is its CODETUNE_HOME."""

    def run(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "codetune", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
            env={
                **os.environ,
                "CODETUNE_HOME": str(home),
                "PYTHONPATH": str(OFFLINE),
                **environment,
            },
        )

    return run


@pytest.fixture(scope="session")
def tuned_home(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, codetune: Codetune
) -> tuple[Path, dict[str, Any]]:
    """A home in which `codetune tune` has run once, and the JSON that it printed."""
    home = tmp_path_factory.mktemp("home")
    result = codetune("tune", str(repository), "--json", *QUICK, home=home)
    assert result.returncode == 0, result.stderr
    return home, json.loads(result.stdout)
