"""A small model, and applications around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codetune.accounts.users import actor_of, get_user
from codetune.registry.ownership import claim
from tests.accounts import People
from tests.clients.conftest import serving
from tests.unit.api.management import Office
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register


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


@pytest.fixture
def adapter(tmp_path: Path, small_base: Path) -> Path:
    return make_adapter(base_of(small_base), tmp_path / "made", seed=1)


@pytest.fixture
def elsewhere(tmp_path: Path, small_base: Path, adapter: Path) -> Iterator[str]:
    """The URL of another codetune, with a model 'shop'."""
    base = base_of(small_base)
    register(tmp_path / "elsewhere", "shop", base, adapter)
    with serving(tmp_path / "elsewhere", base) as running:
        yield running.url


@pytest.fixture
def office(
    people: People, tmp_path: Path, small_base: Path, adapter: Path, engines: list[dict[str, Any]]
) -> Iterator[Office]:
    """ada/shop is hers alone, with the weights of the 'shop' elsewhere; `engines` is what a
    file's tests have behind the server."""
    register(tmp_path / "home", "ada/shop", base_of(small_base), adapter)
    with people.logins.database.write() as session:
        claim(session, actor_of(session, get_user(session, "ada")), "ada/shop")
    made = Office(people, tmp_path / "home", small_base, login=True, engines=engines)
    yield made
    made.engine.close()
