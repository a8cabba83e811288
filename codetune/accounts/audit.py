"""Who did what, when and from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from codetune.registry.access import Actor
from codetune.store.audit import AuditEntry


@dataclass(frozen=True)
class Origin:
    """Where a request came from."""

    address: str = ""
    request_id: str = ""


CONSOLE = Origin("console")


def record(
    session: Session,
    actor: Actor | None,
    action: str,
    subject: str = "",
    origin: Origin = CONSOLE,
    **details: Any,
) -> None:
    """Write one act down, in the transaction of the act itself. Secrets have no place here."""
    session.add(
        AuditEntry(
            actor_id=actor.id if actor else None,
            actor=actor.name if actor else "",
            action=action,
            subject=subject[:500],
            address=origin.address[:64],
            request_id=origin.request_id,
            details=details,
        )
    )


def entries(
    session: Session,
    *,
    limit: int = 100,
    before: int | None = None,
    action: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
) -> Sequence[AuditEntry]:
    """The newest entries; `before` is the id of the last one that was seen."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AuditEntry.id < before)
    if action is not None:
        query = query.where(AuditEntry.action == action)
    if actor is not None:
        query = query.where(AuditEntry.actor == actor)
    if since is not None:
        query = query.where(AuditEntry.at >= since)
    return session.scalars(query).all()
