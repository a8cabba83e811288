"""Which models can be asked for by which name."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from codetune.errors import LoginError, RegistryError, UnservableModelError, nearest
from codetune.models.load import BaseModel, resolve_base
from codetune.models.places import EMBEDDED
from codetune.records import ModelCard
from codetune.registry.cards import Registry
from codetune.registry.files import MODEL
from codetune.serving.engine import Servable, edition_of

if TYPE_CHECKING:
    from codetune.registry.access import Actor
    from codetune.registry.ownership import Owners

_FRESH = 2.0  # seconds for which what was read from the registry is believed


@dataclass(frozen=True)
class Listed:
    """A name that /v1/models shows; `root` is the version behind a short name.

    `kind` is base, adapter or full; or remote, for an engine elsewhere, whose name is `owner`.
    """

    id: str
    root: str
    kind: str
    parent: str | None
    created: int  # seconds since 1970
    owner: str = "codetune"


class Catalog:
    """The registry's models and the base, read again when they may have changed.

    With `owners`, everybody sees their own models and those that are shared with them; without,
    whoever asks sees all of them.
    """

    def __init__(self, registry: Registry, base: str, owners: Owners | None = None) -> None:
        self._registry = registry
        self._base_name = base
        self._owners = owners
        self._lock = threading.Lock()
        self._resolving = threading.Lock()  # a base, which may last: it may come over the network
        self._read_at = 0.0
        self._changed = 0  # when versions last came or went, as of that reading
        self._cards: list[ModelCard] = []
        self._editions: dict[str, str] = {}  # of the cards, by their ids
        self._bases: dict[str, BaseModel] = {}

    def visible_models(self, actor: Actor | None) -> list[Listed]:
        """The bases, then each name (its newest promoted version) and each version.

        Raises:
            LoginError: nobody asks, and the models have owners.
        """
        cards = self._fresh_cards()
        tuned = self._visible(actor, [card for card in cards if card.kind != "base"])
        created = {card.base: _seconds(card.created) for card in cards if card.kind == "base"}
        entries = [
            Listed(label_of(name), label_of(name), "base", None, created.get(name, 0))
            for name in self._base_names(cards, tuned)
        ]
        for name in sorted({card.name for card in tuned}):
            versions = [card for card in tuned if card.name == name]
            chosen = _newest(versions)
            for card_id, card in [(name, chosen), *((card.id, card) for card in versions)]:
                seconds = _seconds(card.created)
                entries.append(Listed(card_id, card.id, card.kind, label_of(card.base), seconds))
        return entries

    def resolve_model(self, actor: Actor | None, name: str | None) -> Servable:
        """The model called `name`; for None the newest promoted one, one's own before shared ones.

        What a user saved as "shop" is "ada/shop" to others; she may leave out her own name.

        Raises:
            RegistryError: there is no such model, or not for this actor.
            LoginError: nobody asks, and the models have owners.
            UnservableModelError: its base is another one than it was tuned on.
            ModelError: its base cannot be used.
        """
        found = self._find(actor, name)
        if found is None and self._have_changed():  # registered or renamed since, by any server
            found = self._find(actor, name)
        if found is not None:
            return found
        if name is None:
            return self._serve_base(self._base_name)
        known = {entry.id for entry in self.visible_models(actor)}
        raise RegistryError(f"There is no model '{name}'.", advice=nearest(name, known))

    def _find(self, actor: Actor | None, name: str | None) -> Servable | None:
        cards = self._fresh_cards()
        tuned = [card for card in cards if card.kind != "base"]
        if name is None:
            promoted = self._visible(actor, [card for card in tuned if card.promoted])
            if not promoted:
                return None
            own = f"{actor.name}/" if actor else ""
            return self._serve(
                max(promoted, key=lambda card: (card.name.startswith(own), card.created))
            )
        bases = {self._base_name, *(card.base for card in cards if card.kind == "base")}
        if any(name in (base, label_of(base)) for base in bases):
            for visible in ([], tuned):  # what everybody may use is found without asking who
                for base in self._base_names(cards, self._visible(actor, visible)):
                    if name in (base, label_of(base)):
                        return self._serve_base(base)
        for called in (name, f"{actor.name}/{name}" if actor else name):
            named = [card for card in tuned if called in (card.id, card.name)]
            if found := self._visible(actor, named):
                return self._serve(_newest(found))
        return None

    def listed(self) -> list[Listed]:
        """`visible_models` where models have no owners."""
        return self.visible_models(None)

    def resolve(self, name: str | None) -> Servable:
        """`resolve_model` where models have no owners."""
        return self.resolve_model(None, name)

    def _visible(self, actor: Actor | None, cards: list[ModelCard]) -> list[ModelCard]:
        """Those of the tuned models `cards` that the actor may ask."""
        if self._owners is None or not cards:
            return cards
        if actor is None:
            raise LoginError("Log in to see models.")
        names = self._owners.visible(actor, {card.name for card in cards})
        return [card for card in cards if card.name in names]

    def _base_names(self, cards: list[ModelCard], visible: list[ModelCard]) -> list[str]:
        """The served base, the embedded ones, and those of the models that are visible."""
        named = [card.base for card in cards if card.kind == "base"]
        used = {card.base for card in visible}
        shown = [n for n in named if self._owners is None or n in EMBEDDED or n in used]
        return list({label_of(name): name for name in (self._base_name, *shown)}.values())

    def _serve(self, card: ModelCard) -> Servable:
        base = self._base(card.base)
        if base.digest != card.base_digest:
            raise UnservableModelError(
                f"'{card.id}' was tuned on another '{label_of(card.base)}' than the one here.",
                advice="Tune it again on this base.",
            )
        return Servable(
            id=card.id,
            kind="adapter" if card.kind == "adapter" else "full",
            folder=self._registry.folder(card) / MODEL,
            base=base,
            created=_seconds(card.created),
            repository=next(iter(card.commits)) if len(card.commits) == 1 else None,
            edition=self._editions.get(card.id, ""),
        )

    def _serve_base(self, name: str) -> Servable:
        base = self._base(name)
        return Servable(id=label_of(name), kind="base", folder=base.path, base=base)

    def _base(self, name: str) -> BaseModel:
        """Resolved once: the digest reads the whole weights. Nobody else waits meanwhile."""
        if (known := self._bases.get(name)) is not None:
            return known
        with self._resolving:
            if name not in self._bases:
                self._bases[name] = resolve_base(name)
            return self._bases[name]

    def is_fresh(self) -> bool:
        """Whether the next look costs no reading of files, nor asking the database."""
        if self._owners is not None:
            return False
        return self._has_read()

    def _has_read(self) -> bool:
        return bool(self._read_at) and time.monotonic() - self._read_at <= _FRESH

    def _have_changed(self) -> bool:
        """Whether versions came or went since they were read; they are read again then."""
        with self._lock:
            if self._registry.changed() == self._changed:
                return False
            self._read_at = 0.0
            return True

    def _fresh_cards(self) -> list[ModelCard]:
        with self._lock:
            if not self._has_read():
                self._changed = self._registry.changed()
                self._cards = self._registry.list()
                tuned = [card for card in self._cards if card.kind != "base"]
                self._editions = {
                    card.id: edition_of(self._registry.folder(card) / MODEL) for card in tuned
                }
                self._read_at = time.monotonic()
            return self._cards


def label_of(base: str) -> str:
    """A base's name for clients: a folder's path stays on this machine."""
    if base in EMBEDDED or not Path(base).expanduser().is_dir():
        return base
    return Path(base).expanduser().resolve().name


def _newest(versions: list[ModelCard]) -> ModelCard:
    """The newest promoted version, else the newest."""
    return max(versions, key=lambda card: (card.promoted, card.version))


def _seconds(created: str) -> int:
    return int(datetime.fromisoformat(created).timestamp())
