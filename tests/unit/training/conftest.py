"""Fixtures of training: one tiny base and one tiny dataset a session."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from codetune.artifacts import Artifact
from codetune.models.load import BaseModel
from tests.unit.training.tiny_training import make_base, make_dataset


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pre-flight sees a disk with a kilobyte left."""
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("codetune.training.preflight.shutil.disk_usage", lambda _: full)
