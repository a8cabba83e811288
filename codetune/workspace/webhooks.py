"""Calls of a repository's host: signed, and answered by queueing what has to be read again.

The signature is GitHub's (docs.github.com, "Validating webhook deliveries"): HMAC-SHA256 of the
body with a secret that the host and a user share. Whose secret it is says who asks.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select

from codetune.accounts.sealed import opened
from codetune.accounts.users import actor_of, have_admin
from codetune.accounts.vault import Vault
from codetune.errors import BadRequestError, LoginError, SourceError, StoreError
from codetune.registry.access import LOCAL, Actor, may
from codetune.sources.identity import parse_address
from codetune.store.jobs import Job
from codetune.store.settings import Setting
from codetune.store.sources import Source
from codetune.store.users import User
from codetune.workspace.orders import Order, Orders
from codetune.workspace.settings import WEBHOOK_SECRET
from codetune.workspace.workspace import Workspace

_log = logging.getLogger(__name__)
_ADDRESSES = ("clone_url", "ssh_url", "git_url", "html_url")


class Webhooks:
    """What hosts of repositories may ask for."""

    def __init__(self, workspace: Workspace) -> None:
        self._work = workspace
        self._vault = Vault(workspace.home)
        self._orders = Orders(workspace)

    def receive(self, body: bytes, signature: str, event: str) -> Sequence[Job]:
        """Queue an ingest of each source that the pushed repository is, of whoever signed.

        A source that waits for one already is not queued again.

        Raises:
            LoginError: nobody's secret made this signature.
            BadRequestError: the body is not what a host sends.
        """
        actors = self._signers(body, signature)
        if not actors:
            raise LoginError(
                "The signature is nobody's.",
                advice=f"Set {WEBHOOK_SECRET} here and at the host to the same value.",
            )
        if event != "push":
            return []
        names = _names(body)
        return [job for actor in actors for job in self._queue(actor, names)]

    def _signers(self, body: bytes, signature: str) -> Sequence[Actor]:
        """Everybody is compared with, whoever it was, each in constant time.

        This machine's own user takes no part where everybody logs in.
        """
        wanted = select(Setting, User).join(User, User.id == Setting.owner_id)
        with self._work.database.session() as session:
            rows = session.execute(wanted.where(Setting.name == WEBHOOK_SECRET)).all()
            actors, login = [], have_admin(session)
            for setting, user in rows:
                try:
                    secret = opened(self._vault, setting)
                except StoreError as error:  # one user's row does not shut out the others
                    _log.error("A call of %s's hosts cannot be checked: %s", user.name, error)
                    continue
                digest = hmac.new(secret.encode(), body, hashlib.sha256)
                made = f"sha256={digest.hexdigest()}"
                same = hmac.compare_digest(made.encode(), signature.encode("utf-8", "replace"))
                if same and not user.disabled and not (login and user.id == LOCAL.id):
                    actors.append(LOCAL if user.id == LOCAL.id else actor_of(session, user))
        return [actor for actor in actors if may(actor, "create")]

    def _queue(self, actor: Actor, names: frozenset[str]) -> Sequence[Job]:
        mine = select(Source).where(Source.owner_id == actor.id, Source.kind == "git")
        waiting = select(Job.parameters).where(
            Job.owner_id == actor.id, Job.kind == "ingest", Job.state == "queued"
        )
        with self._work.database.session() as session:
            found = [row for row in session.scalars(mine) if _name(row.location) in names]
            queued = {parameters["source"] for parameters in session.scalars(waiting)}
        return [
            self._orders.submit(actor, Order("ingest", source_id=row.id))
            for row in found
            if row.location not in queued
        ]


def _names(body: bytes) -> frozenset[str]:
    """host/owner/name of the repository that a push speaks of."""
    try:
        said: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequestError("The body is no JSON.") from error
    repository = said.get("repository") if isinstance(said, Mapping) else None
    if not isinstance(repository, Mapping):
        raise BadRequestError("The body names no repository.", param="repository")
    given = (repository.get(key) for key in _ADDRESSES)
    names = {_name(text) for text in given if isinstance(text, str)} - {""}
    return frozenset(names)


def _name(address: str) -> str:
    try:
        return parse_address(address).name.lower()
    except SourceError:
        return ""
