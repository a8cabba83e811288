"""What a model has learned before it is tuned again: the datasets of those it was made of."""

from __future__ import annotations

import re
from pathlib import Path

from codetune.artifacts import Artifact, open_artifact
from codetune.errors import ArtifactError
from codetune.records import ModelCard
from codetune.registry.bases import is_base
from codetune.registry.cards import Registry
from codetune.registry.files import MODEL

_DIGEST = re.compile(r"[0-9a-f]{16}")


def learned(registry: Registry, name: str, projects: Path) -> tuple[list[Artifact], list[str]]:
    """The datasets that the model `name` and those below it were tuned on; none for a base.

    The second list names the models whose dataset is not below `projects` any more.
    """
    cards, missing = _line(registry, name)
    found: list[Artifact] = []
    for card in cards:
        places = projects.glob(f"*/datasets/{card.data_digest}")
        try:
            if not _DIGEST.fullmatch(card.data_digest):
                raise ArtifactError(f"'{card.data_digest}' is no dataset.")
            found.append(open_artifact(next(places)))
        except (StopIteration, ArtifactError):
            missing.append(card.id)
    return found, missing


def _line(registry: Registry, name: str) -> tuple[list[ModelCard], list[str]]:
    """The model called `name` and those that it was made of; ids of what is not there any more."""
    cards = [card for card in registry.list() if card.kind != "base"]
    found: list[ModelCard] = []
    missing: list[str] = []
    if is_base(name) or all(name not in (card.id, card.name) for card in cards):
        return found, missing
    left = {card.id: card for card in cards}
    # An adapter on a whole model of ours names that one's folder as its base.
    folders = {str((registry.folder(card) / MODEL).resolve()): card.id for card in cards}
    waiting = [registry.get(name).id]
    while waiting:
        one = waiting.pop()
        card = left.pop(folders.get(one, one), None)
        if card is not None:
            found.append(card)
            waiting += [
                parent for parent in card.parents if parent != card.base or parent in folders
            ]
        elif one not in {known.id for known in found}:
            missing.append(one)
    return found, missing
