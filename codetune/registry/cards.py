"""The registry: every model version with its card, found by name."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codetune.artifacts import Artifact, write_json
from codetune.errors import CodetuneError, ConflictError, ModelError, RegistryError, nearest
from codetune.models.load import BaseModel, parent_of, resolve_base
from codetune.records import ModelCard, Repository
from codetune.registry import lineage
from codetune.registry.bases import is_base
from codetune.registry.files import (
    CARD,
    MODEL,
    card_of,
    folder_name,
    is_sound,
    label_of,
    model_folders,
    read_card_file,
    read_models,
)
from codetune.registry.searches import SEARCH, read_search, read_trials
from codetune.registry.store import GONE, NEW, check_model, link_tree, locked, sync_tree

COUNTERS = "versions.json"  # the last version number given to each name
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")


class Registry:
    """The models below `home`/models, one folder a version.

    A folder's name is a digest: what a user calls a model never becomes a path. The cards are
    the index, so there is nothing else that could disagree with them.
    """

    def __init__(self, home: Path) -> None:
        self.root = home / "models"

    def list(self) -> list[ModelCard]:
        """Every model that can be used: bases first, then by name and version.

        A damaged model is left out, and named by `problems`.
        """
        return read_models(self.root)[0]

    def changed(self) -> int:
        """When a version last came or went, in nanoseconds; 0 where there has been none."""
        return self.root.stat().st_mtime_ns if self.root.is_dir() else 0

    def problems(self) -> Mapping[str, CodetuneError]:
        """What is wrong with the models that `list` leaves out, by the name to remove them by."""
        return read_models(self.root)[1]

    def get(self, ref: str) -> ModelCard:
        """The card of "name:version"; of "name", the newest promoted one, else the newest.

        Raises:
            RegistryError: there is no such model; the nearest known name is given.
            ModelError: there is one, but its folder is damaged.
        """
        cards, damaged = read_models(self.root)
        found = [card for card in cards if ref in (card.id, card.name)]
        if found:
            return max(found, key=lambda card: (card.id == ref, card.promoted, card.version))
        for label, error in damaged.items():
            if label == ref or label.rpartition(":")[0] == ref:
                raise ModelError(
                    f"The model {label} is damaged: {error.message}",
                    advice="Run `codetune tune` on its source again (only what is missing is done "
                    f"anew), or `codetune remove {label}`.",
                ) from error
        known = {card.name for card in cards} | {card.id for card in cards if ":" in ref}
        raise RegistryError(
            f"There is no model '{ref}'.",
            advice=nearest(ref, known) or "`codetune tune PATH` makes one.",
        )

    def folder(self, card: ModelCard) -> Path:
        """The folder of a card with `card.json`, `model/` and `report.html`; a base's own one."""
        if card.kind == "base":
            return resolve_base(card.base).path
        return self.root / folder_name(card.name, card.version)

    def base(self, name: str) -> BaseModel:
        """What is to be tuned: a base, or a model of ours to go on from.

        An adapter comes as its base with the adapter as `parent`; a whole model as a base.

        Raises:
            ModelError, UnsafeModelError: it cannot be used, or the adapter's base is another
                one by now.
        """
        cards = [card for card in read_models(self.root)[0] if card.kind != "base"]
        if is_base(name) or all(name not in (card.id, card.name) for card in cards):
            versions = {card.id for card in cards if card.name == name.rpartition(":")[0]}
            return resolve_base(name, versions or {card.name for card in cards})
        card = self.get(name)
        folder = self.folder(card) / MODEL
        if card.kind != "adapter":
            return resolve_base(str(folder))
        base = resolve_base(card.base)
        return replace(base, parent=parent_of(card.id, folder, base))

    def register(
        self,
        name: str,
        *,
        run: Artifact,
        evaluation: Artifact,
        dataset: Artifact,
        cleaned: Artifact,
        repository: Repository,
        base: BaseModel,
    ) -> ModelCard:
        """Keep a run's model under the next version of `name`; promoted if the gate said so.

        The same run again is the same version: its card is brought up to date when it was
        evaluated anew, and its files are restored when they were damaged.

        Raises:
            RegistryError: the name cannot be used, or the registry cannot be written.
            UnsafeModelError: the run's folder holds more than safetensors and plain text.
        """
        self.check_name(name)
        kind = check_model(run / MODEL)
        scorecard = _scorecard(evaluation)
        card = ModelCard(
            id=name,
            name=name,
            version=0,
            kind=kind,
            base=base.name,
            base_digest=base.digest,
            method=str(run.summary.get("method", kind)),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            promoted=bool(scorecard["promoted"]),
            config_digest=lineage.config_digest(run, dataset, cleaned),
            data_digest=dataset.digest,
            commits=lineage.commits(repository),
            licences=lineage.licences(cleaned),
            metrics=scorecard,
            parents=(base.parent.id, base.name) if base.parent else (base.name,),
            shares_batches=kind == "adapter" and bool(run.summary.get("shares_batches", True)),
        )
        origin = {"run": run.digest, "evaluation": evaluation.digest}
        with locked(self.root):
            return self._put(card, origin, run / MODEL)

    def keep_search(self, card: ModelCard, search: Artifact) -> None:
        """Keep the trials that led to a version beside it, as `search.json`.

        Raises:
            RegistryError: the search's folder is damaged.
        """
        write_json(self.folder(card) / SEARCH, {**search.summary, "all": read_trials(search.path)})

    def search_of(self, card: ModelCard) -> Mapping[str, Any] | None:
        """What `keep_search` kept: its summary, and under `all` every trial; None without one."""
        file = self.folder(card) / SEARCH
        return read_search(file) if card.kind != "base" and file.exists() else None

    def promote(self, ref: str) -> ModelCard:
        """Make a version the one that its name stands for, whatever the gate said.

        A name stands for its newest promoted version, so newer ones become candidates again:
        this is also the way back to an older version.

        Raises:
            RegistryError: there is no such model, or it is a base.
            ModelError: it is damaged.
        """
        with locked(self.root):
            card = self.get(ref)
            if card.kind == "base":
                raise RegistryError(
                    f"'{card.id}' is a base, not a tuned model.",
                    advice="Bases are served as they are; `codetune models` lists yours.",
                )
            if not card.promoted:
                card = self._judge(card, True, "Promoted by hand.")
            for other in self.list():
                if other.name == card.name and other.promoted and other.version > card.version:
                    self._judge(other, False, f"{card.id} was promoted by hand instead.")
            return card

    def version_folder(self, ref: str) -> Path:
        """The folder of one version, "name:version"; damaged ones count, too.

        Raises:
            RegistryError: there is no such version, or it is a base.
        """
        cards, damaged = read_models(self.root)
        folders = {card.id: self.folder(card) for card in cards if card.kind != "base"}
        for folder in model_folders(self.root):
            label = label_of(folder)
            if label in damaged:
                folders[label] = folder
        if ref in folders:
            return folders[ref]
        if any(card.id == ref for card in cards):
            raise RegistryError(f"'{ref}' is a base: there is no model '{ref}' of yours to remove.")
        versions = [label for label in folders if label.rpartition(":")[0] == ref]
        raise RegistryError(
            f"There is no model '{ref}' to remove.",
            advice=f"Name a version: {', '.join(versions)}."
            if versions
            else nearest(ref, folders) or "`codetune models` lists what there is.",
        )

    def remove(self, ref: str, *, name_others: bool = False) -> None:
        """Delete one version, "name:version", for good; its number is not given again.

        `name_others`: all models are the caller's to see, and those in the way are named.

        Raises:
            RegistryError: there is no such version, or it is a base.
            ConflictError: other models are based on it.
        """
        with locked(self.root):
            folder = self.version_folder(ref)
            self.refuse_what_is_built_on([folder], name_others=name_others)
            gone = self.root / f"{GONE}{secrets.token_hex(8)}"
            folder.rename(gone)
            shutil.rmtree(gone)

    def refuse_what_is_built_on(
        self, folders: Sequence[Path], *, but: Sequence[Path] = (), name_others: bool = False
    ) -> None:
        """Raise ConflictError when a version has the whole model in one of `folders` as its base.

        Those in the folders `but` do not count: they go, too. Names of others are not told
        unasked; they may be somebody else's.
        """
        ours = {str((folder / MODEL).resolve()) for folder in folders}
        cards = [card for card in read_models(self.root)[0] if card.kind != "base"]
        above = [c.id for c in cards if c.base in ours and self.folder(c) not in but]
        if above:
            count = f"{len(above)} other version{'s' * (len(above) > 1)}"
            raise ConflictError(
                f"It is the base of {', '.join(sorted(above)) if name_others else count}, which "
                "cannot be used without it where it is.",
                advice="Remove what is based on it first.",
            )

    def put(self, card: ModelCard, origin: Mapping[str, str], folder: Path) -> ModelCard:
        """Keep what a version's `folder` holds as the next version of the card's name."""
        with locked(self.root):
            kept = self._put(card, origin, folder / MODEL)
            if (folder / SEARCH).exists() and not (self.folder(kept) / SEARCH).exists():
                shutil.copy2(folder / SEARCH, self.folder(kept) / SEARCH)
            return kept

    def _judge(self, card: ModelCard, promoted: bool, reason: str) -> ModelCard:
        """Write another verdict into a card; the caller holds the lock."""
        reasons = [*card.metrics.get("reasons", ()), reason]
        card = replace(card, promoted=promoted, metrics={**card.metrics, "reasons": reasons})
        folder = self.folder(card)
        write_json(folder / CARD, {**read_card_file(folder), **asdict(card)})
        return card

    def _put(self, card: ModelCard, origin: Mapping[str, str], model: Path) -> ModelCard:
        """Write the version; the caller holds the lock."""
        old = self._same_run(card.name, origin["run"])
        version = old.version if old else self._next_version(card.name)
        folder = self.root / folder_name(card.name, version)
        card = replace(
            card,
            id=f"{card.name}:{version}",
            version=version,
            report=f"{folder.name}/report.html",
            created=old.created if old else card.created,
        )
        if old and is_sound(folder):
            if read_card_file(folder)["evaluation"] != origin["evaluation"]:
                write_json(folder / CARD, {**asdict(card), **origin})
                return card
            return old
        new = self.root / f"{NEW}{secrets.token_hex(8)}"
        new.mkdir()
        link_tree(model, new / MODEL)
        write_json(new / CARD, {**asdict(card), **origin})
        sync_tree(new)
        if folder.exists():
            folder.rename(self.root / f"{GONE}{secrets.token_hex(8)}")
        new.rename(folder)
        return card

    def _next_version(self, name: str) -> int:
        """One more than was ever given to `name`, even if that model has been removed."""
        counters = self.root / COUNTERS
        try:
            given = json.loads(counters.read_text()) if counters.exists() else {}
            last = int(given.get(name, 0))
        except (ValueError, AttributeError, TypeError):
            given, last = {}, 0  # a damaged counter: the cards still know
        for folder in model_folders(self.root):
            found, _, version = label_of(folder).rpartition(":")
            if found == name:
                last = max(last, int(version))
        write_json(counters, {**given, name: last + 1})
        return last + 1

    def _same_run(self, name: str, run: str) -> ModelCard | None:
        for folder in model_folders(self.root):
            try:
                values = read_card_file(folder)
                if values.get("name") == name and values.get("run") == run:
                    return card_of(values, folder)
            except RegistryError:
                continue  # named by `problems`
        return None

    def check_name(self, name: str) -> None:
        """Refuse what cannot be a model's name.

        Raises:
            RegistryError
        """
        if not _NAME.fullmatch(name):
            raise RegistryError(
                f"'{name}' cannot be a model's name.",
                advice="Use letters, digits, '.', '_', '-' and '/', at most 96 of them, "
                "beginning with a letter or digit: --name my-model.",
            )
        if is_base(name):
            raise RegistryError(
                f"'{name}' is the name of a base.", advice="Choose another one with --name."
            )


def _scorecard(evaluation: Artifact) -> dict[str, Any]:
    path = evaluation / "scorecard.json"
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict) or not isinstance(value.get("promoted"), bool):
            raise ValueError("it has no verdict")
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"{path} cannot be read: {error}.", advice="Delete its folder and run again."
        ) from error
    return value
