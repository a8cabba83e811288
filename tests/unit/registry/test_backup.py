"""Backup and restore: consistent while in use, checked, across kinds of databases, all or nothing."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from codetune.accounts.logins import Logins
from codetune.accounts.users import people as accounts
from codetune.errors import CodetuneError, ConflictError, StoreError, UnsafeModelError
from codetune.registry.access import Actor
from codetune.registry.backup import back_up, restore
from codetune.registry.cards import Registry
from codetune.registry.ownership import claim
from codetune.store.audit import AuditEntry
from codetune.store.database import Database
from codetune.store.datasets import Dataset
from codetune.store.dump import sent_folders, snapshot
from codetune.store.jobs import Job
from codetune.store.models import Model
from codetune.store.sources import Source
from codetune.store.tables import METADATA
from tests.accounts import People
from tests.unit.serving.tiny_models import base_of, make_adapter, make_base, register


@pytest.fixture(scope="module")
def registry_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = base_of(make_base(folder / "base"))
    for number in (1, 2):
        adapter = make_adapter(base, folder / str(number), seed=number)
        register(folder / "home", "ada/shop", base, adapter, promoted=number == 1)
    return folder / "home"


@pytest.fixture
def home(registry_home: Path, people: People) -> Path:
    with people.logins.database.write() as session:
        claim(session, Actor(people.ids["ada"], "ada", "member"), "ada/shop")
        session.add(Job(kind="tune", owner_id=people.ids["ada"], parameters={"source": "ä\n"}))
    return registry_home


def rows_of(database: Database) -> dict[str, list[Any]]:
    with database.session() as session:
        return {
            table.name: sorted(map(repr, session.execute(select(table)).all()))
            for table in METADATA.sorted_tables
        }


def empty(tmp_path: Path, name: str = "empty") -> tuple[Database, Path]:
    home = tmp_path / name
    home.mkdir()
    return Database.open(f"sqlite:///{home / 'codetune.db'}"), home


def test_what_was_backed_up_comes_back_also_in_the_other_kind_of_database(
    people: People, home: Path, tmp_path: Path
) -> None:
    database, file = people.logins.database, tmp_path / "b.tar"
    made = back_up(database, home, file)
    assert (made.models, file.stat().st_mode & 0o777) == (2, 0o600)
    target, place = empty(tmp_path)  # SQLite, from SQLite and from PostgreSQL
    with target:
        restore(target, place, file)
        assert rows_of(target) == rows_of(database)
        assert Registry(place).list() == Registry(home).list()
        assert not Registry(place).problems()
        logins = Logins(target, place, people.logins.options)
        assert logins.identify(people.tokens["ada"]).teams == {people.team_id}
        with target.write() as session:  # its counters go on
            session.add(AuditEntry(actor="x", action="x"))
        # And back to where it came from, in the place of what is there now.
        second = tmp_path / "second.tar"
        back_up(target, place, second)
    with pytest.raises(ConflictError, match="--replace"):
        restore(database, place, second)
    restore(database, place, second, replace=True)
    with database.write() as session:
        session.add(AuditEntry(actor="y", action="y"))
    with database.session() as session:
        assert set(session.scalars(select(AuditEntry.actor))) >= {"x", "y"}
        assert len(accounts(session)) == 5
    assert [p.name for p in place.iterdir() if p.name.startswith(".")] == []
    assert Registry(place).get("ada/shop").id == "ada/shop:1"


def test_it_is_one_moment_while_people_write(people: People, home: Path, tmp_path: Path) -> None:
    """Two rows are always written together: a backup has both or neither."""
    database, stop = people.logins.database, threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with database.write() as session:
                session.add(Job(kind="tune", owner_id=people.ids["bob"], parameters={"n": number}))
                session.flush()
                session.add(Model(name=f"bob/{number}", owner_id=people.ids["bob"]))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(4):
            back_up(database, home, tmp_path / f"{number}.tar")
    finally:
        stop.set()
        writer.join()
    for number in range(4):
        with tarfile.open(tmp_path / f"{number}.tar") as tar:
            jobs, models = (
                tar.extractfile(f"database/{name}.jsonl").read().count(people.ids["bob"].encode())  # type: ignore[union-attr]
                for name in ("jobs", "models")
            )
        assert jobs == models


def test_what_people_have_sent_comes_back_and_what_has_no_row_does_not(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, own, file = people.logins.database, tmp_path / "own", tmp_path / "b.tar"
    owner = people.ids["ada"]
    with database.write() as session:
        rows, archive = "datasets/dst_1/rows.jsonl", "uploads/src_1/shop/ä.zip"
        session.add(Dataset(id="dst_1", owner_id=owner, name="d", kind="upload", location=rows))
        session.add(Source(id="src_1", owner_id=owner, name="s", kind="archive", location=archive))
        session.add(Source(owner_id=owner, name="g", kind="git", location="https://x/y/z.git"))
    for name in (
        *(rows, archive),
        *("datasets/dst_gone/rows.jsonl", "uploads/.new-1/half", "uploads/src_1.more/half"),
    ):
        (own / name).parent.mkdir(parents=True)
        (own / name).write_text(name)
    assert back_up(database, own, file).models == 0

    target, place = empty(tmp_path)
    (place / "datasets" / "dst_0").mkdir(parents=True)
    with target:
        restore(target, place, file)
    assert sent(place) == {rows, archive}
    assert all((place / name).read_text() == name for name in sent(place))

    before = sent(own)  # a restore that fails late puts them back
    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.engine.Transaction.commit", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore(database, own, file, replace=True)
    assert sent(own) == before
    assert [p.name for p in own.iterdir() if p.name.startswith(".")] == []


def test_what_is_deleted_in_the_middle_of_a_backup_is_in_it_whole(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row is of the moment that the backup holds; its folder goes right after it."""
    database, own, file = people.logins.database, tmp_path / "own", tmp_path / "b.tar"
    rows = "datasets/dst_1/rows.jsonl"
    with database.write() as session:
        ada = people.ids["ada"]
        session.add(Dataset(id="dst_1", owner_id=ada, name="d", kind="upload", location=rows))
    (own / rows).parent.mkdir(parents=True)
    (own / rows).write_text("{}")

    def then_deleted(session: Any) -> set[str]:
        found = sent_folders(session)
        shutil.rmtree(own / "datasets" / "dst_1")
        return found

    monkeypatch.setattr("codetune.registry.backup.sent_folders", then_deleted)
    back_up(database, own, file)
    target, place = empty(tmp_path)
    with target:
        restore(target, place, file)
    assert sent(place) == {rows}


def test_what_is_sent_and_deleted_around_the_moment_is_not_in_it(
    people: People, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row without its files, but for one that has lost them for good: that stops no backup."""
    database, own, file = people.logins.database, tmp_path / "own", tmp_path / "b.tar"
    moments = 0

    def add(name: str) -> Dataset:
        place = f"datasets/{name}/rows.jsonl"
        with database.write() as session:
            owner = people.ids["ada"]
            row = Dataset(id=name, owner_id=owner, name=name, kind="upload", location=place)
            session.add(row)
        return row

    def around(session: Any) -> str:
        nonlocal moments
        moments += 1
        if moments > 1:
            return snapshot(session)
        row = add("dst_short")
        found = snapshot(session)
        with database.write() as other:
            other.delete(row)
        return found

    add("dst_lost")
    own.mkdir()
    monkeypatch.setattr("codetune.registry.backup.snapshot", around)
    back_up(database, own, file)
    assert moments == 2
    target, place = empty(tmp_path)
    with target:
        restore(target, place, file)
        with target.session() as session:
            assert list(session.scalars(select(Dataset.id))) == ["dst_lost"]


def sent(home: Path) -> set[str]:
    return {
        path.relative_to(home).as_posix()
        for name in ("datasets", "uploads")
        for path in (home / name).rglob("*")
        if path.is_file()
    }


def _changed(file: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    """The tar again, with its members changed."""
    made = file.with_name("changed.tar")
    with tarfile.open(file) as old, tarfile.open(made, "w") as new:
        for member in old:
            source = old.extractfile(member)
            assert source is not None
            kept = change(member.name, source.read())
            if kept is not None:
                info = tarfile.TarInfo(kept[0])
                info.size = len(kept[1])
                new.addfile(info, io.BytesIO(kept[1]))
    return made


def _flip(name: str, data: bytes) -> tuple[str, bytes]:
    return name, data[:-1] + b"\x00" if name.endswith("adapter_model.safetensors") else data


def _climb(name: str, data: bytes) -> tuple[str, bytes]:
    return name.replace("database/users", "database/../../users"), data


def _newer(name: str, data: bytes) -> tuple[str, bytes]:
    if name == "manifest.json":
        data = json.dumps({**json.loads(data), "schema": "9999"}).encode()
    return name, data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_flip, "is not what was backed up"),
        (_climb, "has no place in it"),
        (lambda n, d: None if n == "manifest.json" else (n, d), "cut off"),
        (lambda n, d: None if n == "database/users.jsonl" else (n, d), "is not what was backed up"),
        (_newer, "newer codetune"),
    ],
)
def test_a_damaged_file_changes_nothing(
    people: People,
    home: Path,
    tmp_path: Path,
    change: Callable[[str, bytes], tuple[str, bytes] | None],
    message: str,
) -> None:
    file = tmp_path / "b.tar"
    back_up(people.logins.database, home, file)
    _nothing_changes(people, home, _changed(file, change), message)


def test_files_that_are_no_backup_change_nothing(
    people: People, home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "b.tar"
    back_up(people.logins.database, home, file)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(file.read_bytes()[:-20_000])
    text = tmp_path / "text.tar"
    text.write_text("not a tar" * 1000)
    link = tmp_path / "link.tar"
    with tarfile.open(link, "w") as tar:
        member = tarfile.TarInfo("models/a/model/x.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    for wrong in (cut, text, link, tmp_path / "none.tar", tmp_path):
        _nothing_changes(people, home, wrong, "cannot be restored")


def _nothing_changes(people: People, home: Path, file: Path, message: str) -> None:
    database = people.logins.database
    rows, cards = rows_of(database), Registry(home).list()
    inodes = sorted(p.stat().st_ino for p in home.rglob("*"))
    with pytest.raises(CodetuneError, match=message):
        restore(database, home, file, replace=True)
    assert rows_of(database) == rows
    assert Registry(home).list() == cards
    assert sorted(p.stat().st_ino for p in home.rglob("*")) == inodes


def test_a_restore_that_fails_late_changes_nothing(
    people: People, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models stand in their new place already, and the database does not commit."""
    file, database = tmp_path / "b.tar", people.logins.database
    back_up(database, home, file)
    rows, cards = rows_of(database), Registry(home).list()

    def broken(connection: Any) -> None:
        raise StoreError("the disk is full")

    from sqlalchemy.engine import Transaction

    with monkeypatch.context() as patch:
        patch.setattr(Transaction, "commit", broken)
        with pytest.raises(StoreError, match="disk is full"):
            restore(database, home, file, replace=True)
    assert rows_of(database) == rows
    assert Registry(home).list() == cards
    assert [p.name for p in home.iterdir() if p.name.startswith(".")] == []


def test_a_model_that_holds_code_is_refused(people: People, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    back_up(people.logins.database, home, file)
    digests: dict[str, str] = {}

    def rename(name: str, data: bytes) -> tuple[str, bytes]:
        import hashlib

        if name == "manifest.json":
            return name, json.dumps({**json.loads(data), "files": digests}).encode()
        name = name.replace("adapter_model.safetensors", "adapter_model.bin")
        digests[name] = hashlib.sha256(data).hexdigest()
        return name, data

    made = _changed(file, rename)
    target, place = empty(tmp_path)
    with target, pytest.raises(UnsafeModelError):
        restore(target, place, made)
    assert not (place / "models").exists()


def test_a_file_is_never_written_over(people: People, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    file.write_text("mine")
    with pytest.raises(ConflictError):
        back_up(people.logins.database, home, file)
    assert file.read_text() == "mine"
    assert [p.name for p in home.iterdir() if p.name.startswith(".")] == []
