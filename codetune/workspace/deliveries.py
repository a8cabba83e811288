"""A user's models brought out: who may have that done, with what, and where the files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select

from codetune.accounts.sealed import HUB_TOKEN
from codetune.errors import BadRequestError, ConfigError, ConflictError, NotFoundError, nearest
from codetune.export.config import ExportOptions
from codetune.export.hub import check_endpoint, check_repository
from codetune.export.ollama import Server, check_name
from codetune.export.reading import read_model
from codetune.jobs.deliver import FOLDER
from codetune.jobs.limits import settled_path
from codetune.jobs.work import Work
from codetune.registry.access import Actor
from codetune.store.jobs import Job
from codetune.store.settings import Setting
from codetune.workspace.user_models import UserModels
from codetune.workspace.workspace import Workspace


class Deliveries:
    """Jobs that bring models out, and what they have made."""

    def __init__(self, workspace: Workspace) -> None:
        self._work = workspace
        self._models = UserModels(workspace)

    def export(self, actor: Actor, ref: str, options: ExportOptions) -> Job:
        """Queue an export; its files can be fetched when it has ended.

        Raises:
            NotFoundError, ForbiddenError: the model is not the actor's to change.
            QuotaError: the actor has as many jobs waiting as they may.
        """
        card = self._models.find(actor, ref, "write")
        return self._queue(actor, "export", card.id, options, {})

    def push(
        self, actor: Actor, ref: str, options: ExportOptions, repository: str, **more: Any
    ) -> Job:
        """Queue an export and its upload to a hub; `more` is `endpoint` and `public`.

        Raises:
            NotFoundError, ForbiddenError: the model is not the actor's to share.
            ConfigError: no such repository can be, or the hub is none of this server's.
            ConflictError: the actor has no token of the hub.
        """
        card = self._models.find(actor, ref, "share")
        check_repository(repository)
        endpoint = more["endpoint"]
        if endpoint is not None and not actor.is_local:
            self._check_hub(endpoint)
        if endpoint is not None:
            endpoint = check_endpoint(endpoint)
        if not actor.is_local and not self._has_token(actor):
            raise ConflictError(
                "You have no token of the hub on this server.",
                advice='Set it: PUT /api/v1/settings/hub.token {"value": "hf_…"}',
            )
        wanted = {"repository": repository, "endpoint": endpoint, "public": bool(more["public"])}
        return self._queue(actor, "push", card.id, options, {**wanted, "local": actor.is_local})

    def load(
        self,
        actor: Actor,
        ref: str,
        options: ExportOptions,
        *,
        name: str,
        url: str,
        key_variable: str | None,
    ) -> Job:
        """Queue an export and its creation as `name` in the Ollama server at `url`.

        The address is the administrator's, or this machine's user's.

        Raises:
            NotFoundError, ForbiddenError: the model is not the actor's to share.
            ConfigError: Ollama takes no such name.
        """
        card = self._models.find(actor, ref, "share")
        wanted = {
            "name": check_name(name),
            "url": Server(url).url,
            "key_variable": key_variable,
        }
        return self._queue(actor, "ollama", card.id, options, wanted)

    def load_file(
        self, actor: Actor, path: str, *, name: str, url: str, key_variable: str | None
    ) -> Job:
        """Queue the creation of a GGUF file, or of a Modelfile's, as `name` in Ollama.

        Raises:
            UnsafeSourceError: it lies where the actor may have nothing read.
            ExportError: it is neither, or names a file that is not there.
            ConfigError: Ollama takes no such name.
        """
        roots = self._work.jobs.options.roots
        place = settled_path(actor, path, roots, "path")
        file, _ = read_model(place)
        settled_path(actor, str(file), roots, "path (its FROM)")
        wanted = {"name": check_name(name), "url": Server(url).url, "key_variable": key_variable}
        work = Work("ollama", str(place), {"is_file": True, **wanted})
        return self._work.jobs.enqueue(actor, work)

    def file(self, actor: Actor, job_id: str, name: str) -> Path:
        """A file that an export has made.

        Raises:
            NotFoundError: there is no such export of the actor's, or no such file of it.
            ConflictError: it has not ended well.
        """
        job = self._work.jobs.get(actor, job_id)
        if job.kind != "export":
            raise NotFoundError(f"There is no export '{job_id}'.")
        if job.state != "succeeded" or job.result is None:
            raise ConflictError(
                f"The export {job_id} is {job.state}.",
                advice="Its files are there when it has succeeded.",
            )
        files = job.result["files"]
        path = self._work.home / "jobs" / job.id / FOLDER / name
        # The name is looked up among those that were written: it never makes a path.
        if name not in files or not path.is_file():
            raise NotFoundError(f"The export has no file '{name}'.", advice=nearest(name, files))
        return path

    def _queue(
        self, actor: Actor, kind: str, model: str, options: ExportOptions, more: dict[str, Any]
    ) -> Job:
        said = options.model_dump(mode="json", exclude_unset=True)
        work = Work(kind, model, {"export": {"format": options.format, **said}, **more})
        return self._work.jobs.enqueue(actor, work)

    def _check_hub(self, endpoint: str) -> None:
        allowed = [hub.rstrip("/") for hub in self._work.jobs.options.hubs]
        if endpoint.rstrip("/") not in allowed:
            raise ConfigError(
                f"endpoint: {endpoint[:200]} is not among this server's hubs.",
                advice=f"Known: {', '.join(allowed)}." if allowed else "It has none but the usual.",
            )

    def _has_token(self, actor: Actor) -> bool:
        mine = select(Setting.name).where(Setting.owner_id == actor.id, Setting.name == HUB_TOKEN)
        with self._work.database.session() as session:
            return session.scalar(mine) is not None


def options_of(values: dict[str, Any]) -> ExportOptions:
    """A request's fields as an export's options; None is what was not said.

    Raises:
        BadRequestError: they do not fit together.
    """
    try:
        given = {key: value for key, value in values.items() if value is not None}
        return ExportOptions.load(given, "the request")
    except ConfigError as error:
        raise BadRequestError(error.message, param="format", advice=error.advice) from error
