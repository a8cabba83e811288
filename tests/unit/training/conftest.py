"""Fixtures of training: one tiny base and one tiny dataset a session."""

from __future__ import annotations

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
