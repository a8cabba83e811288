"""`codetune models`, `promote` and `remove` on a registry of tiny real models."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from codetune.accounts.users import add_user
from codetune.cli.models import models, promote, remove, show
from codetune.cli.teams import teams
from codetune.errors import CodetuneError
from codetune.registry.cards import Registry
from codetune.serving.fates import Remains
from codetune.serving.log import Logged, StoredLog
from codetune.store.database import Database
from codetune.store.users import LOCAL_USER
from tests.unit.registry.finished_stages import stages


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """mine:1 and mine:2 are promoted, mine:3 is a candidate."""
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CODETUNE_DATABASE", raising=False)
    registry = Registry(tmp_path / "home")
    for number, promoted in ((1, True), (2, True), (3, False)):
        registry.register("mine", **stages(tmp_path / "stages", number, promoted))
    return registry


def call(command: click.Command, *arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command, arguments, input=stdin)


def test_promote_changes_what_the_name_stands_for(registry: Registry) -> None:
    result = call(promote, "mine:3")
    assert result.output == "'mine' stands for mine:3 now (before: mine:2).\n"
    assert registry.get("mine").id == "mine:3"
    back = json.loads(call(promote, "mine:1", "--json").output)
    assert back == {"model": "mine:1", "promoted": True, "before": "mine:3"}
    assert registry.get("mine").id == "mine:1"


def test_promoting_what_is_promoted_says_so_and_names_the_others(registry: Registry) -> None:
    result = call(promote, "mine")
    assert result.output == (
        "'mine' stands for mine:2 already.\n"
        "Name the version to promote another one: mine:1, mine:3\n"
    )
    assert registry.get("mine").id == "mine:2"


def test_promoting_what_does_not_exist(registry: Registry) -> None:
    result = call(promote, "mnie:3")
    assert isinstance(result.exception, CodetuneError)
    assert "Did you mean 'mine:3'?" in str(result.exception)


def test_show_says_why_a_model_has_its_status(registry: Registry) -> None:
    registry.promote("mine:3")
    assert "promoted · Better. · Promoted by hand." in call(show, "mine:3").output


def test_show_says_what_editors_made_of_its_completions(registry: Registry, tmp_path: Path) -> None:
    assert "in editors" not in call(show, "mine:2").output
    assert not (tmp_path / "home" / "codetune.db").exists(), "to show is not to make a database"
    with Database.open() as database:
        log, now = StoredLog(database, remains=Remains(lambda: now)), 0.0
        texts = {"prefix": "def total(prices):\n    ", "text": "return sum(prices)"}
        for name in ("one", "two", "three", "four"):
            log.completion(Logged(name, LOCAL_USER, "mine:2", "tabby", path="a.py", texts=texts))
            log.event(LOCAL_USER, name, "view", choice=0, details={})
        log.event(LOCAL_USER, "one", "select", choice=0, details={})
        for name in ("two", "three"):
            log.event(LOCAL_USER, name, "dismiss", choice=0, details={})
        now, kept = 60.0, {"prefix": texts["prefix"] + "return sum(prices)\n", "text": ""}
        log.completion(Logged("five", LOCAL_USER, "mine:1", "tabby", path="a.py", texts=kept))
    told = "4 shown, 25% accepted, 50% dismissed; of 1 seen later, 0% was changed"
    assert f"in editors     {told}\n" in call(show, "mine:2").output
    quality = json.loads(call(show, "mine:2", "--json").output)["quality"]
    assert (quality["accept_rate"], quality["edit_ratio"]) == (0.25, 0.0)
    assert json.loads(call(show, "mine:3", "--json").output)["quality"]["accept_rate"] is None


def test_remove_without_a_terminal_wants_yes(registry: Registry) -> None:
    for arguments in (["mine:2"], ["mine:2", "--json"]):
        result = call(remove, *arguments, stdin="y\n")
        assert isinstance(result.exception, CodetuneError)
        assert "codetune remove mine:2 --yes" in str(result.exception)
    assert registry.get("mine:2")


def test_remove_says_what_the_name_stands_for_afterwards(registry: Registry) -> None:
    folder = registry.folder(registry.get("mine:2"))
    assert (
        call(remove, "mine:2", "--yes").output == "mine:2 is removed. 'mine' stands for mine:1.\n"
    )
    assert not folder.exists()
    gone = json.loads(call(remove, "mine:1", "-y", "--json").output)
    assert gone == {"removed": "mine:1", "name_stands_for": "mine:3"}
    assert call(remove, "mine:3", "-y").output == "mine:3 is removed.\n"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("mine", "Name a version: mine:1, mine:2, mine:3."),
        ("mine:9", "Did you mean 'mine:"),
        ("nano", "'nano' is a base"),
    ],
)
def test_what_remove_refuses_even_with_yes(registry: Registry, ref: str, message: str) -> None:
    result = call(remove, ref, "--yes")
    assert isinstance(result.exception, CodetuneError)
    assert message in str(result.exception)
    assert len([card for card in registry.list() if card.name == "mine"]) == 3


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"\n", 1), (b"n\n", 1)])
def test_on_a_terminal_remove_asks_and_the_default_is_no(
    registry: Registry, answer: bytes, code: int
) -> None:
    """A real terminal: standard input is a pty."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "codetune", "remove", "mine:2"]
    os.write(ours, answer)
    done = subprocess.run(command, stdin=theirs, capture_output=True, timeout=60, check=False)
    os.close(ours)
    os.close(theirs)
    printed = done.stdout + done.stderr
    assert done.returncode == code
    assert b"Remove mine:2 for good? [y/N]" in printed
    assert (b"mine:2 is kept." in printed) == bool(code)
    assert ("mine:2" in {card.id for card in registry.list()}) == bool(code)


def test_who_is_given_a_model_is_named(registry: Registry) -> None:
    with Database.open() as database, database.write() as session:
        add_user(session, "ada", None)
    said = call(teams, "share", "mine", "--private", "--owner", "ada").output
    assert said == "mine belongs to ada now, and is shared with nobody.\n"


def test_a_name_is_never_cut_off(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a-name-of-some-length"
    registry.register(long, **stages(tmp_path / "stages", 1, True))
    for width in ("60", "80"):
        monkeypatch.setenv("COLUMNS", width)
        assert f"{long}:1 " in call(models).output


def test_models_names_what_is_damaged_and_how_to_be_rid_of_it(registry: Registry) -> None:
    unreadable, short = (registry.folder(registry.get(f"mine:{n}")) for n in (1, 2))
    (unreadable / "card.json").write_text("{")
    weights = short / "model" / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # the run shares the file
    weights.write_bytes(content[:-2])
    shown = call(models).output
    (base,) = (line for line in shown.splitlines() if line.startswith("nano "))
    assert base.split() == ["nano", "base", "base"], "when its files were written says nothing"
    assert "mine:3" in shown
    assert "Damaged: mine:2\n" in shown
    assert "codetune remove mine:2" in shown
    assert f"Damaged: {unreadable.name}\n" in shown
    listed = json.loads(call(models, "--json").output)
    problems = {problem["model"]: problem for problem in listed["problems"]}
    assert set(problems) == {"mine:2", unreadable.name}
    assert "card.json cannot be read" in problems[unreadable.name]["message"]
    assert [card["id"] for card in listed["models"] if card["name"] == "mine"] == ["mine:3"]
    for label in problems:
        assert call(remove, label, "--yes").exit_code == 0
    assert "Damaged" not in call(models).output
