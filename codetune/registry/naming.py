"""Giving a registered model another name, or a second one."""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from codetune.artifacts import write_json
from codetune.errors import ConflictError, RegistryError
from codetune.records import ModelCard
from codetune.registry.cards import COUNTERS, Registry
from codetune.registry.files import CARD, folder_name, read_card_file
from codetune.registry.store import GONE, NEW, link_tree, locked, sync_tree

_UNDER_WAY = ".renaming-"


def save_as(registry: Registry, ref: str, name: str) -> ModelCard:
    """Keep a version under the next version of another name, too; its files are shared.

    The same version again is the same version.

    Raises:
        RegistryError: there is no such version, it is a base, or the name cannot be used.
    """
    registry.check_name(name)
    card = _tuned(registry, ref)
    folder = registry.folder(card)
    values = read_card_file(folder)
    origin = {key: str(values[key]) for key in ("run", "evaluation")}
    return registry.put(replace(card, id=name, name=name, version=0), origin, folder)


@dataclass(frozen=True)
class Rename:
    """A name that is being changed: its versions stand under both until `settle` ends it."""

    file: Path
    owned: str  # the id of the row that says which of the names it is
    old: str
    new: str
    versions: tuple[int, ...]


def begin_rename(registry: Registry, name: str, new: str, owned: str) -> None:
    """Let all versions of `name` stand under `new`, too; their numbers stay.

    What is under way is written down first, so that `settle` ends it whoever dies meanwhile;
    `owned` is the id of the model's row.

    Raises:
        RegistryError: there is no such model, it is a base, or the name cannot be used.
        ConflictError: there is a model of the new name, or one that is based on a version.
    """
    registry.check_name(new)
    _tuned(registry, name)
    with locked(registry.root):
        cards = registry.list()
        if any(card.name == new for card in cards):
            raise ConflictError(f"There is a model '{new}' already.")
        mine = [card for card in cards if card.name == name]
        registry.refuse_what_is_built_on([registry.folder(card) for card in mine])
        file = registry.root / f"{_UNDER_WAY}{secrets.token_hex(8)}.json"
        versions = [card.version for card in mine]
        write_json(file, {"owned": owned, "old": name, "new": new, "versions": versions})
        for card in mine:
            _link(registry, card, new)
        _keep_count(registry.root, name, new)


def under_way(registry: Registry) -> list[Rename]:
    """The renames that have begun and not ended."""
    found = []
    for file in sorted(registry.root.glob(f"{_UNDER_WAY}*.json")):
        try:
            said = json.loads(file.read_bytes())
        except FileNotFoundError:
            continue  # it has just ended
        found.append(Rename(file, said["owned"], said["old"], said["new"], tuple(said["versions"])))
    return found


def settle(registry: Registry, rename: Rename, name: str) -> None:
    """End a rename: its versions stand under `name` alone, which is the old or the new one."""
    other = rename.new if name == rename.old else rename.old
    with locked(registry.root):
        if not rename.file.exists():
            return
        for version in rename.versions:
            place = registry.root / folder_name(other, version)
            if place.exists():
                gone = registry.root / f"{GONE}{secrets.token_hex(8)}"
                place.rename(gone)
                shutil.rmtree(gone)
        rename.file.unlink()


def _link(registry: Registry, card: ModelCard, name: str) -> None:
    """The same version under another name; the caller holds the lock."""
    old = registry.folder(card)
    target = registry.root / folder_name(name, card.version)
    named = replace(
        card, id=f"{name}:{card.version}", name=name, report=f"{target.name}/report.html"
    )
    new = registry.root / f"{NEW}{secrets.token_hex(8)}"
    link_tree(old, new)
    (new / CARD).unlink()  # the link, so that the old name's card stays as it is
    write_json(new / CARD, {**read_card_file(old), **asdict(named)})
    sync_tree(new)
    new.rename(target)


def _keep_count(root: Path, name: str, new: str) -> None:
    """The new name goes on counting where the old one stood."""
    file = root / COUNTERS
    try:
        given = json.loads(file.read_text()) if file.exists() else {}
        given[new] = max(int(given.get(new, 0)), int(given.get(name, 0)))
    except (ValueError, AttributeError, TypeError):
        return  # a damaged counter: the cards still know
    write_json(file, given)


def _tuned(registry: Registry, ref: str) -> ModelCard:
    card = registry.get(ref)
    if card.kind == "base":
        raise RegistryError(f"'{ref}' is a base.", advice="Bases keep their names.")
    return card
