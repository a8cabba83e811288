"""The models of somebody: all versions of a name, whose it is, and who else may use it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from codetune.errors import ConflictError, NotFoundError
from codetune.jobs.limits import usable_name
from codetune.records import ModelCard
from codetune.registry import naming
from codetune.registry.access import (
    LOCAL,
    Action,
    Actor,
    allow,
    may,
    readable,
    require,
    require_role,
)
from codetune.registry.ownership import UNCLAIMED, claim, saved_as, share_model
from codetune.store.base import now
from codetune.store.jobs import Job
from codetune.store.models import Model
from codetune.store.teams import Team
from codetune.workspace.orders import Order, Orders
from codetune.workspace.pages import Page, Window, slice_of
from codetune.workspace.renames import end_renames, take_turn
from codetune.workspace.sources import refuse_in_use
from codetune.workspace.workspace import Workspace


@dataclass(frozen=True)
class UserModel:
    """A name in the registry with its versions, the oldest first."""

    id: str
    name: str
    owner_id: str
    team_id: str | None
    visibility: str
    versions: Sequence[ModelCard]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def current(self) -> ModelCard:
        """The version that the name stands for."""
        return max(self.versions, key=lambda card: (card.promoted, card.version))


class UserModels:
    """The models of one server's registry, as their owners see them."""

    def __init__(self, workspace: Workspace) -> None:
        self._work = workspace
        self._orders = Orders(workspace)

    def list(self, actor: Actor, window: Window) -> Page[UserModel]:
        """What the actor may see, by name."""
        with self._work.database.session() as session:
            return slice_of(self._visible(session, actor), window)

    def get(self, actor: Actor, model_id: str, action: Action = "read") -> UserModel:
        """One model, if the actor may do this with it.

        Raises:
            NotFoundError, ForbiddenError
        """
        with self._work.database.session() as session:
            models = self._visible(session, actor)
        found = next((model for model in models if model.id == model_id), None)
        found = require(actor, action, found, f"model '{model_id}'")
        assert found is not None
        return found

    def find(self, actor: Actor, ref: str, action: Action) -> ModelCard:
        """The version that an id, a name or "name:version" stands for, if the actor may do this.

        Raises:
            NotFoundError, ForbiddenError
        """
        asked, _, version = ref.partition(":")
        with self._work.database.session() as session:
            models = self._visible(session, actor)
        named = {name: model for model in models for name in (model.name, model.id)}
        found = named.get(saved_as(actor, asked)) or named.get(asked)
        found = require(actor, action, found, f"model '{ref}'")
        assert found is not None
        if not version:
            return found.current
        return _version(found, int(version) if version.isascii() and version.isdigit() else 0)

    def save(self, actor: Actor, tuning_id: str, name: str, description: str = "") -> UserModel:
        """Keep a finished tuning's model under a name.

        Raises:
            NotFoundError: there is no such tuning of the actor's.
            ConflictError: it has made no model, or the name is somebody else's.
        """
        require_role(actor, "create")
        job = self._work.jobs.get(actor, tuning_id)
        if job.kind != "tune" or job.state != "succeeded" or job.result is None:
            raise ConflictError(f"The job {tuning_id} has made no model.")
        made, kept = str(job.result["model"]), usable_name(actor, name, self._work.registry)
        with self._work.database.write() as session:
            row = claim(session, actor, kept)
            row.details = {**row.details, "description": description, "tuning": job.id}
            if made.rpartition(":")[0] != kept:
                naming.save_as(self._work.registry, made, kept)
            return self._of(session, row.name)

    def start_from(self, actor: Actor, model_id: str, order: Order) -> Job:
        """Queue a tuning that goes on from a model, with the options that made it.

        What `order` says goes before them; without a source it reads the same one.

        Raises:
            NotFoundError: it is not the actor's to use; and as `Orders.submit`.
            ConflictError: nobody knows what it was tuned on, and `order` names no source.
        """
        model = self.get(actor, model_id, "use")
        job = self._maker(actor, model)
        known = dict(job.parameters.get("config", {})) if job else {}
        for key in ("name", "base"):
            known.pop(key, None)
        again = replace(order, config={**known, **order.config}, base=model.current.id)
        if again.source is None and again.source_id is None and job is None:
            raise ConflictError(
                f"It is not known here what '{model.name}' was tuned on.",
                advice="Name a source: 'source_id'.",
            )
        return self._orders.submit(actor, again, earlier=job)

    def rename(self, actor: Actor, model_id: str, name: str) -> UserModel:
        """Call a model otherwise, with all its versions.

        Raises:
            NotFoundError, ForbiddenError: it is not the actor's.
            BadRequestError: it cannot be a name.
            ConflictError: the name is taken, or a job that has not ended makes a version of the
                model or goes on from one.
        """
        work = self._work
        model = self.get(actor, model_id, "write")
        new = usable_name(actor, name, work.registry)
        try:
            with work.database.write() as session:
                take_turn(work.database, session)
                row = self._row(session, model)
                if new != row.name:
                    if session.scalar(select(Model.id).where(Model.name == new)) is not None:
                        raise ConflictError(f"The name '{name}' is taken.")
                    for called in (row.name, *(card.id for card in model.versions)):
                        refuse_in_use(session, called, f"model '{model.name}' by that name")
                    naming.begin_rename(work.registry, row.name, new, row.id)
                    for card in model.versions:
                        for job in session.scalars(_makers(card)):
                            job.result = {**(job.result or {}), "model": f"{new}:{card.version}"}
                    row.name = new
        finally:
            end_renames(work.database, work.registry)
        return self.get(actor, model_id)

    def promote(self, actor: Actor, model_id: str, version: int) -> UserModel:
        """Make a version the one that the name stands for.

        Raises:
            NotFoundError, ForbiddenError: it is not the actor's, or there is no such version.
        """
        model = self.get(actor, model_id, "write")
        self._work.registry.promote(_version(model, version).id)
        return self.get(actor, model_id)

    def roll_back(self, actor: Actor, model_id: str) -> UserModel:
        """Go back to the version before the one that the name stands for.

        Raises:
            ConflictError: there is none.
        """
        model = self.get(actor, model_id, "write")
        older = [card for card in model.versions if card.version < model.current.version]
        if not older:
            raise ConflictError(f"There is no version of '{model.name}' to go back to.")
        return self.promote(actor, model_id, max(card.version for card in older))

    def delete(self, actor: Actor, model_id: str, version: int | None = None) -> None:
        """Delete one version, or all of them and the name.

        Raises:
            NotFoundError, ForbiddenError: it is not the actor's.
            ConflictError: a job that has not ended makes a version of it, or needs one; other
                models are based on it.
        """
        model = self.get(actor, model_id, "delete")
        gone = model.versions if version is None else [_version(model, version)]
        entirely = len(gone) == len(model.versions)
        registry = self._work.registry
        folders = [registry.folder(card) for card in gone]
        registry.refuse_what_is_built_on(folders, but=folders)
        with self._work.database.write() as session:
            # The bare name stands for the current version.
            named = [model.name] if model.current in gone else []
            for called in (*named, *(card.id for card in gone)):
                refuse_in_use(session, called, f"model '{model.name}'")
            row = session.get(Model, model_id)
            if entirely and row is not None:
                self._keep_ids(session)
                session.delete(row)
                session.flush()
            for card in sorted(gone, key=lambda card: -card.version):  # one may stand on another
                registry.remove(card.id)

    def share(self, actor: Actor, model_id: str, visibility: str, team_id: str | None) -> UserModel:
        """Show a model to a team of the actor's, to everyone, or to nobody else.

        Raises:
            NotFoundError, ForbiddenError: the model or the team is not the actor's.
            ConfigError: a team is missing, or there is one too many.
        """
        model = self.get(actor, model_id, "share")
        with self._work.database.write() as session:
            team = session.get(Team, team_id) if team_id is not None else None
            if team_id is not None and (
                team is None or not (team_id in actor.teams or may(actor, "manage"))
            ):
                raise NotFoundError(f"There is no team '{team_id}'.")
            row = self._row(session, model)
            share_model(row, visibility, team)
            session.flush()
            return self._of(session, row.name)

    def _visible(self, session: Session, actor: Actor) -> Sequence[UserModel]:
        rows = {row.name: row for row in session.scalars(select(Model))}
        ids = {row.id for row in rows.values()}
        mine = set(session.scalars(select(Model.name).where(readable(actor, Model))))
        versions: dict[str, list[ModelCard]] = {}
        for card in self._work.registry.list():
            if card.kind != "base":
                versions.setdefault(card.name, []).append(card)
        found = []
        for name, cards in sorted(versions.items()):
            if name in mine or (name not in rows and allow(actor, "read", UNCLAIMED)):
                found.append(_model(name, rows.get(name), cards, ids))
        return found

    def _of(self, session: Session, name: str) -> UserModel:
        row = session.scalar(select(Model).where(Model.name == name))
        cards = [card for card in self._work.registry.list() if card.name == name]
        return _model(name, row, cards, ())

    def _row(self, session: Session, model: UserModel) -> Model:
        """The model's row, made now if nobody had claimed it."""
        row = session.get(Model, model.id)
        if row is None:
            row = Model(id=model.id, name=model.name, owner_id=UNCLAIMED.owner_id, created=now())
            session.add(row)
            session.flush()
        return row

    def _keep_ids(self, session: Session) -> None:
        """Write down the ids that other rows' had to be made way for, before a row goes: who
        sends its deletion twice must not reach another model with the second one."""
        for model in self._visible(session, LOCAL):
            if model.id != _derived(model.name):
                self._row(session, model)

    def _maker(self, actor: Actor, model: UserModel) -> Job | None:
        """The job that made a model's current version, if it is still known and the actor may see
        it; of one that was saved under this name, the job that it was saved from."""
        mine = readable(actor, Job)
        with self._work.database.session() as session:
            found = _makers(model.current).where(mine).order_by(Job.created.desc()).limit(1)
            if (job := session.scalar(found)) is not None:
                return job
            saved = select(Job).where(Job.id == model.details.get("tuning"), mine)
            job = session.scalar(saved)
            made = str((job.result or {}).get("model")) if job else ""
            return None if made.rpartition(":")[0] == model.name else job


def _makers(card: ModelCard) -> Select[Job]:
    return select(Job).where(Job.kind == "tune", Job.result["model"].as_string() == card.id)


def _model(
    name: str, row: Model | None, cards: Sequence[ModelCard], taken: Collection[str]
) -> UserModel:
    """A model as its row says; without one, under an id that none of `taken` is."""
    versions = sorted(cards, key=lambda card: card.version)
    if row is None:
        tries = (_derived(name, number) for number in count())
        made = next(each for each in tries if each not in taken)
        return UserModel(made, name, UNCLAIMED.owner_id, None, "private", versions)
    return UserModel(row.id, name, row.owner_id, row.team_id, row.visibility, versions, row.details)


def _derived(name: str, number: int = 0) -> str:
    """The id of a model that has no row: the same each time. Another model may have taken it along
    when it was renamed; then the next `number` is tried."""
    text = f"{name}\n{number}" if number else name
    return f"mdl_{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _version(model: UserModel, version: int) -> ModelCard:
    for card in model.versions:
        if card.version == version:
            return card
    raise NotFoundError(f"There is no version {version} of '{model.name}'.")
