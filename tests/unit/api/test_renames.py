"""A server that is killed while it renames a model: after a restart the name is one of the two."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codetune.accounts.users import actor_of, get_user
from codetune.registry.cards import Registry
from codetune.registry.ownership import claim
from codetune.workspace.workspace import Workspace
from tests.accounts import People
from tests.unit.api.management import Office
from tests.unit.serving.tiny_models import base_of, make_adapter, register

LIST = "/api/v1/user-models"
# Where it dies, and which name it has had since then.
PLACES = {
    "before anything is linked": ("naming._link", 0, "ada/shop"),
    "between two versions": ("naming._link", 1, "ada/shop"),
    "before the database has it": ("naming._keep_count", 0, "ada/shop"),
    "after the database has it": ("naming.settle", 0, "ada/till"),
    "while the old ones are deleted": ("naming.shutil.rmtree", 1, "ada/till"),
}
PROGRAM = """
import os, signal, sys
from pathlib import Path
from codetune.accounts.users import actor_of, get_user
from codetune.registry import naming
from codetune.store.database import Database
from codetune.workspace.user_models import UserModels
from codetune.workspace.workspace import Workspace

url, home, model, place, left = sys.argv[1:]
*path, name = place.split(".")
target = naming
for part in path[1:]:
    target = getattr(target, part)
real, calls = getattr(target, name), [int(left)]

def dying(*args, **options):
    if not calls[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    calls[0] -= 1
    return real(*args, **options)

with Database.open(url) as database:
    work = Workspace.of(database, Path(home))
    with database.session() as session:
        ada = actor_of(session, get_user(session, "ada"))
    setattr(target, name, dying)
    UserModels(work).rename(ada, model, "till")
"""


@pytest.fixture
def office(people: People, tmp_path: Path, small_base: Path) -> Iterator[Office]:
    """ada/shop with two versions."""
    base = base_of(small_base)
    for seed in (1, 2):
        adapter = make_adapter(base, tmp_path / f"made-{seed}", seed=seed)
        register(tmp_path / "home", "ada/shop", base, adapter)
    with people.logins.database.write() as session:
        claim(session, actor_of(session, get_user(session, "ada")), "ada/shop")
    made = Office(people, tmp_path / "home", small_base, login=True)
    yield made
    made.engine.close()


@pytest.mark.parametrize("place", PLACES)
def test_killed_at(office: Office, place: str) -> None:
    function, left, expected = PLACES[place]
    database = office.people.logins.database
    (model,) = office("ada", f"GET {LIST}", 200).json()["items"]
    arguments = [database.secret_url, str(office.home), model["id"], function, str(left)]
    died = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    # Somebody takes the other name meanwhile: that does not decide whose files are deleted.
    other = {"ada/shop", "ada/till"} - {expected}
    with database.write() as session:
        claim(session, actor_of(session, get_user(session, "root1")), other.pop())
    Workspace.of(database, office.home)  # the restart
    registry = Registry(office.home)
    names = [card.id for card in registry.list() if card.kind != "base"]
    assert names == [f"{expected}:1", f"{expected}:2"]
    assert not registry.problems()
    (found,) = office("ada", f"GET {LIST}", 200).json()["items"]
    assert (found["id"], found["name"], len(found["versions"])) == (model["id"], expected, 2)
    for version in ("1", "2"):
        assert office("ada", f"GET /v1/models/{expected}:{version}", 200)
    rest = {path.name for path in (office.home / "models").iterdir() if path.name.startswith(".")}
    assert rest <= {".lock"} | {name for name in rest if name.startswith(".gone-")}
    if expected == "ada/shop":  # and it can be called otherwise now
        office("ada", f"POST {LIST}/{model['id']}/rename", 200, json={"name": "best"})
        assert office("ada", f"GET {LIST}", 200).json()["items"][0]["current"] == "ada/best:2"


def test_a_new_name_can_be_asked_at_once(office: Office) -> None:
    """The server has read the models a moment ago."""
    ask = {"prompt": "a", "max_tokens": 1}
    (model,) = office("ada", f"GET {LIST}", 200).json()["items"]
    office("ada", "POST /v1/completions", 200, json={**ask, "model": "shop"})
    office("ada", f"POST {LIST}/{model['id']}/rename", 200, json={"name": "till"})
    asked = office("ada", "POST /v1/completions", 200, json={**ask, "model": "till"})
    assert asked.json()["model"] == "ada/till:2"
    office("ada", "POST /v1/completions", 404, json={**ask, "model": "shop"})
