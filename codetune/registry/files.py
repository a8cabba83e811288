"""The files of the registry: `card.json` and `model/` in one folder a version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from codetune.artifacts import digest_of
from codetune.errors import CodetuneError, ModelError, RegistryError
from codetune.records import ModelCard
from codetune.registry.bases import base_cards
from codetune.registry.store import check_model

CARD, MODEL = "card.json", "model"
_FIELDS = {field.name for field in fields(ModelCard)}


def read_models(root: Path) -> tuple[list[ModelCard], dict[str, CodetuneError]]:
    """The cards of bases and sound models, and what is wrong with the others, by their label."""
    cards: list[ModelCard] = []
    damaged: dict[str, CodetuneError] = {}
    for folder in model_folders(root):
        try:
            card = card_of(read_card_file(folder), folder)
            check_model(folder / MODEL)
            cards.append(card)
        except CodetuneError as error:
            damaged[label_of(folder)] = error
    cards.sort(key=lambda card: (card.name, card.version))
    bases, unusable = base_cards(cards)
    return [*bases, *cards], {**unusable, **damaged}


def model_folders(root: Path) -> list[Path]:
    """The folders of all versions; those that are being written or deleted begin with a dot."""
    if not root.is_dir():
        return []
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def folder_name(name: str, version: int) -> str:
    return digest_of({"name": name, "version": version})


def label_of(folder: Path) -> str:
    """Its "name:version" for a folder whose card can be read, else the folder's own name."""
    try:
        return card_of(read_card_file(folder), folder).id
    except RegistryError:
        return folder.name


def is_sound(folder: Path) -> bool:
    """Can the version in this folder still be loaded?"""
    try:
        check_model(folder / MODEL)
    except ModelError:
        return False
    return True


def read_card_file(folder: Path) -> dict[str, Any]:
    """The JSON object in a version's card.json: the card, and the digests that it came from.

    Raises:
        RegistryError: it is missing or not a JSON object.
    """
    try:
        values = json.loads((folder / CARD).read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise RegistryError(
            f"{folder / CARD} cannot be read: {error}.",
            advice=f"`codetune remove {folder.name}`, and tune again.",
        ) from error
    return values


def card_of(values: Mapping[str, Any], folder: Path) -> ModelCard:
    """The card in card.json, if it belongs to this folder."""
    try:
        known = {key: value for key, value in values.items() if key in _FIELDS}
        card = ModelCard(**{**known, "parents": tuple(values["parents"])})
        named = f"{card.name}:{card.version}", folder_name(card.name, card.version)
        if named != (card.id, folder.name):
            raise ValueError("it belongs to another model")
        if not isinstance(card.metrics, dict) or card.kind not in ("adapter", "full"):
            raise ValueError("its metrics or its kind are not what they should be")
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(
            f"{folder / CARD} is damaged: {error}.",
            advice=f"`codetune remove {folder.name}`, and tune again.",
        ) from error
    return card
