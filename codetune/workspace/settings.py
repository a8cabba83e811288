"""Settings of the server's users; a secret is written and used, and never read back.

In the database a secret stands as `accounts.vault` has sealed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, select

from codetune.accounts.sealed import HUB_TOKEN, purpose_of
from codetune.accounts.vault import Vault
from codetune.errors import BadRequestError, NotFoundError, nearest
from codetune.registry.access import Actor, require_role
from codetune.store.settings import Setting
from codetune.workspace.workspace import Workspace

WEBHOOK_SECRET = "webhook.secret"  # noqa: S105 - its name


@dataclass(frozen=True)
class Known:
    """A setting that there is."""

    description: str
    secret: bool = False
    shortest: int = 1
    longest: int = 1024


SETTINGS: Mapping[str, Known] = {
    WEBHOOK_SECRET: Known(
        "What your repository's host signs its calls of /webhook/github with.",
        secret=True,
        shortest=16,
    ),
    HUB_TOKEN: Known(
        "Token of the Hugging Face hub that your models are uploaded with: it needs the right to "
        "write.",
        secret=True,
        shortest=8,
    ),
}


@dataclass(frozen=True)
class Shown:
    """A setting as its owner sees it; `updated` is None where it is not set."""

    name: str
    description: str
    secret: bool
    value: str | None  # None for a secret, whatever it is
    updated: datetime | None

    @property
    def is_set(self) -> bool:
        return self.updated is not None


class Settings:
    """One's own settings."""

    def __init__(self, workspace: Workspace) -> None:
        self._database, self._vault = workspace.database, Vault(workspace.home)

    def list(self, actor: Actor) -> Sequence[Shown]:
        """Every setting that there is, and what of it may be seen."""
        with self._database.session() as session:
            found = session.scalars(select(Setting).where(Setting.owner_id == actor.id))
            rows = {row.name: row for row in found}
        return [_shown(name, rows.get(name)) for name in SETTINGS]

    def put(self, actor: Actor, name: str, value: str) -> Shown:
        """Set a value.

        Raises:
            NotFoundError: there is no such setting.
            BadRequestError: the value is too short or too long, or not one line of text.
        """
        require_role(actor, "write")
        known = _known(name)
        if not known.shortest <= len(value) <= known.longest:
            raise BadRequestError(
                f"'{name}' has {known.shortest} to {known.longest} characters.", param="value"
            )
        if not value.isprintable():  # a token goes into a header, where a line break ends it
            raise BadRequestError(f"'{name}' holds no control characters.", param="value")
        if known.secret:
            kept = {"sealed": self._vault.seal(value, purpose_of(actor.id, name))}
        else:
            kept = {"value": value}
        with self._database.write() as session:
            row = session.get(Setting, (actor.id, name))
            if row is None:
                row = Setting(owner_id=actor.id, name=name, secret=known.secret)
                session.add(row)
            row.value = kept
            session.flush()
            return _shown(name, row)

    def delete(self, actor: Actor, name: str) -> None:
        """Forget a value.

        Raises:
            NotFoundError: there is no such setting.
        """
        require_role(actor, "write")
        _known(name)
        mine = (Setting.owner_id == actor.id, Setting.name == name)
        with self._database.write() as session:
            session.execute(delete(Setting).where(*mine))


def _known(name: str) -> Known:
    if name not in SETTINGS:
        raise NotFoundError(f"There is no setting '{name}'.", advice=nearest(name, SETTINGS))
    return SETTINGS[name]


def _shown(name: str, row: Setting | None) -> Shown:
    known = SETTINGS[name]
    value = None if row is None or known.secret else str(row.value["value"])
    return Shown(name, known.description, known.secret, value, row.updated if row else None)
