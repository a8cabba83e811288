"""What somebody may have a job do: which paths it reads, which models, under which name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from codetune.accounts.users import actor_of
from codetune.errors import (
    BadRequestError,
    ConfigError,
    NotFoundError,
    RegistryError,
    SourceError,
    UnsafeSourceError,
)
from codetune.jobs.config import JobOptions
from codetune.jobs.work import Work
from codetune.models.places import names_a_base
from codetune.project import ProjectConfig
from codetune.registry.access import Actor, require, require_role
from codetune.registry.cards import Registry
from codetune.registry.ownership import Owners, saved_as
from codetune.sources.identity import looks_remote, parse_address
from codetune.sources.sites import check_name
from codetune.store.database import Database
from codetune.store.users import LOCAL_USER, User

_PATH = re.compile(r"[/~.]|.*\\")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}(?::\d+)?")  # as the registry has them
_LONGEST_LABEL = 56  # characters: 96 of a model's name, without "/" and the longest user's name


def checked(
    actor: Actor,
    kind: str,
    source: str,
    config: ProjectConfig,
    options: JobOptions,
    *,
    registry: Registry,
    owners: Owners,
    folder: Path | None,
) -> Work:
    """The work as it goes into the queue, with every path and name settled.

    Raises:
        NotFoundError: it goes on from a model that is not the actor's to use.
        BadRequestError: no model, or no base, can be called so.
        UnsafeSourceError, ConfigError: it reads what only the administrator may.
        SourceError: it names a path that cannot be one.
    """
    if kind == "pull":
        return Work(kind, _pulled(actor, source, options, folder), {})
    base = _base(actor, config.base, registry, owners, folder)
    settled = config if base == config.base else config.model_copy(update={"base": base})
    source = settled_source(actor, source, options, folder)
    if config.name:
        usable_name(actor, config.name, registry)
    if actor.is_local:
        for what, path in _paths(settled):
            _reachable(_real(path, what), what)
        where = str(folder.resolve()) if folder is not None else None
        return Work(kind, source, _values(settled), where)
    name = saved_as(actor, config.name or label_of(source))
    settled = settled.model_copy(update={"name": name})
    _check_paths(settled, options)
    return Work(kind, source, _values(settled))


def check_again(
    database: Database, home: Path, owner: str, work: Work, options: JobOptions
) -> Work:
    """The work as it may begin now: what was nobody's model may have become somebody's.

    A base that is no model of the registry by now is none to the job until its end. With the
    work go the `sites` as they are now: the fetch looks up the source's host with them.

    Raises:
        NotFoundError: the base is not the owner's to use.
        ForbiddenError: the owner may no longer have jobs.
    """
    if owner == LOCAL_USER:
        return work
    with database.session() as session:
        actor = actor_of(session, session.get_one(User, owner))
    require_role(actor, "create")
    work = replace(work, sites=options.sites)
    if (base := work.config.get("base")) is None:
        return work
    name = str(base).partition(":")[0]
    if all(card.name != name for card in Registry(home).list() if card.kind != "base"):
        return replace(work, foreign_base=True)
    require(actor, "use", Owners(database).of([name])[name], f"model '{base}'")
    return work


def usable_name(actor: Actor, label: str, registry: Registry) -> str:
    """The registry's name for what the actor calls `label`.

    Raises:
        BadRequestError: no model can be called so.
    """
    name = saved_as(actor, label)
    try:
        registry.check_name(name)
    except RegistryError as error:
        raise BadRequestError(error.message, param="name", advice=error.advice) from error
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise BadRequestError(
            f"'{name}' cannot be a model's name.",
            param="name",
            advice="Between two '/' has to stand something, and neither '.' nor '..'.",
        )
    return name


def _pulled(actor: Actor, name: str, options: JobOptions, folder: Path | None) -> str:
    """A base's name: of the hub, or a folder that the actor may have read."""
    if not names_a_base(name):
        _check_path(name, folder, "model")
    if actor.is_local:
        return _local(name, folder, "model")
    if _PATH.match(name) or _is_there(name, "model"):
        return str(_below(name, options.roots, "model"))
    return name


def settled_source(
    actor: Actor, source: str, options: JobOptions, folder: Path | None = None
) -> str:
    """The address or the real path that `source` stands for, if the actor may have it read.

    Raises:
        UnsafeSourceError, SourceError: it is a path of the server that is below none of the
            options' `roots`, by its name inside the network and none of its `sites`, or an
            address that git must not be given.
        ConfigError: the address holds a password.
    """
    if actor.is_local:
        return _local(source, folder, "source")
    if not looks_remote(source) or source.lower().startswith("file:"):
        plain = parse_address(source).path if source.lower().startswith("file:") else source
        return str(_below(plain, options.roots, "source"))
    check_name(parse_address(source).host, options.sites)
    refuse_credentials(source)
    return source


def refuse_credentials(location: str) -> None:
    """Refuse an address that holds a secret: addresses are kept as they are.

    Raises:
        ConfigError
    """
    address = parse_address(location)
    if address.password or (address.user and address.scheme != "ssh"):
        raise ConfigError(
            "The address holds a password or a token, which would be kept and shown.",
            advice="Use an ssh:// address, or git's credential helper on the server.",
        )


def settled_path(actor: Actor, path: str, roots: Iterable[str], what: str) -> Path:
    """The real path that `path` is, if the actor may have it read; `what` names the field.

    Raises:
        UnsafeSourceError: it is below none of `roots`, and the actor is not this machine's user.
        SourceError: it cannot be a path, or not be looked at.
    """
    if actor.is_local:
        return _reachable(_real(path, what), what)
    return _below(path, roots, what)


def label_of(source: str) -> str:
    """What a model is called after its source, when nobody has named it."""
    last = source.rstrip("/").removesuffix(".git").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    label = re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._")
    return label[:_LONGEST_LABEL].rstrip("-._") or "model"


def _values(config: ProjectConfig) -> dict[str, Any]:
    """What was said, and what was settled since; defaults stay those of the version that runs."""
    return config.model_dump(mode="json", exclude_unset=True)


def _local(source: str, folder: Path | None, what: str) -> str:
    """A path of this machine as every process sees it; an address as it is."""
    with _as_path(source, what):
        path = (folder or Path()) / Path(source).expanduser()
        return str(path.resolve()) if path.exists() else source


def _base(actor: Actor, base: str, registry: Registry, owners: Owners, folder: Path | None) -> str:
    """The base, which may be a model of the registry that the actor may use.

    Of what other users have, nothing is told: below their names there is nothing to be found.
    """
    names = {card.name for card in registry.list() if card.kind != "base"}
    asked, colon, version = base.partition(":")
    for name in (saved_as(actor, asked), asked):
        if name in names:
            require(actor, "use", owners.of([name])[name], f"model '{base}'")
            return f"{name}{colon}{version}"
    if names_a_base(base) and not owners.another(actor, asked):
        return base
    known = _MODEL.fullmatch(base) is not None
    if known and actor.is_local:  # a job that waits may make it
        return base
    if known and ("/" not in base or owners.another(actor, asked)):
        raise NotFoundError(f"There is no model '{base}'.")
    _check_path(base, folder, "base")
    return base


def _check_path(base: str, folder: Path | None, what: str) -> None:
    """Refuse what is no path either: no base can be called so.

    Raises:
        BadRequestError
    """
    with _as_path(base, what):
        if _PATH.match(base) or ((folder or Path()) / base).exists():
            return
    raise BadRequestError(
        f"{what}: {base[:80]!r} cannot be a base.",
        param=what,
        advice="It is 'nano', an id of the hub (owner/name), a folder, or a model of yours.",
    )


def _check_paths(config: ProjectConfig, options: JobOptions) -> None:
    for what, path in _paths(config):
        _below(path, options.roots, what)
    teacher = config.dataset.instructions.teacher.url
    if teacher is not None and teacher not in options.teachers:
        raise ConfigError(
            f"dataset.instructions.teacher.url: {teacher} is not among this server's teachers.",
            advice=f"Known: {', '.join(options.teachers)}." if options.teachers else "It has none.",
        )


def _paths(config: ProjectConfig) -> Iterator[tuple[str, str]]:
    """The options that are paths, and what they say."""
    if _PATH.match(config.base) or _is_there(config.base, "base"):
        yield "base", config.base
    for number, one in enumerate(config.dataset.mix):
        yield f"dataset.mix.{number}.path", one.path
    if config.dataset.review is not None:
        yield "dataset.review", config.dataset.review


def _below(path: str, roots: Iterable[str], what: str) -> Path:
    """The real path, if it lies below one of `roots`; links are followed first."""
    real = _real(path, what)
    if any(real.is_relative_to(Path(root).expanduser().resolve()) for root in roots):
        return _reachable(real, what)
    raise UnsafeSourceError(
        f"{what}: paths of the server cannot be used here.",
        advice="Use an https:// or ssh:// address, or ask the administrator to allow a folder "
        "(the option `roots` of jobs).",
    )


def _real(path: str, what: str) -> Path:
    with _as_path(path, what):
        return Path(path).expanduser().resolve()


def _reachable(real: Path, what: str) -> Path:
    """The path, if the system can look whether there is something; there may be nothing yet."""
    _is_there(str(real), what)
    return real


def _is_there(path: str, what: str) -> bool:
    with _as_path(path, what):
        return Path(path).exists()


@contextmanager
def _as_path(path: str, what: str) -> Iterator[None]:
    """One name for what the system says of a path that cannot be used: the home of a user whom
    nobody knows, a name that is too long, a null character."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise SourceError(f"{what}: {path[:80]!r} cannot be used: {reason}.") from error
