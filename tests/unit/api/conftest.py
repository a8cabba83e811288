"""A small model, and applications around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import People
from tests.unit.api.management import Office
from tests.unit.serving.tiny_models import make_base


@pytest.fixture(scope="package")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture
def team(people: People, tmp_path: Path, small_base: Path) -> Iterator[Office]:
    """A server with accounts, whose administrator allows the folder `allowed`."""
    roots = (str(tmp_path / "allowed"),)
    office = Office(people, tmp_path / "home", small_base, roots, login=True)
    yield office
    office.engine.close()


@pytest.fixture
def alone(people: People, tmp_path: Path, small_base: Path) -> Iterator[Office]:
    """A server of one machine's own user."""
    office = Office(people, tmp_path / "home", small_base, login=False)
    yield office
    office.engine.close()
