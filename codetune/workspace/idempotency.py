"""A request that is sent twice under one key is done once.

The header is that of the draft draft-ietf-httpapi-idempotency-key-header: the same key with the
same request gets the first answer again; with another request, or while the first one is being
answered, it is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete

from codetune.errors import ConflictError
from codetune.registry.access import Actor
from codetune.store.base import now
from codetune.store.database import Database
from codetune.store.idempotency import IdempotencyKey

_KEPT = timedelta(days=1)
_ABANDONED = timedelta(minutes=10)  # a server died while it answered
Answer = dict[str, Any]


def digest_of_request(*parts: Any) -> str:
    """What tells two requests apart: method, path, and what the body says."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def once(
    database: Database,
    actor: Actor,
    key: str | None,
    digest: str,
    status: int,
    make: Callable[[], Answer],
) -> tuple[Answer, bool]:
    """`make()`, or what it gave under this key before; and whether that is a repetition.

    A failure is not kept: the same key may try again.

    Raises:
        ConflictError: the key belongs to another request, or to one that is under way.
    """
    if key is None:
        return make(), False
    kept = _reserve(database, actor, key, digest)
    if kept is not None:
        return kept, True
    try:
        answer = make()
    except BaseException:
        with database.write() as session:
            session.execute(_row(actor, key))
        raise
    with database.write() as session:
        row = session.get(IdempotencyKey, (actor.id, key))
        if row is not None:
            row.status, row.answer = status, answer
    return answer, False


def _reserve(database: Database, actor: Actor, key: str, digest: str) -> Answer | None:
    """The answer that is kept; or None, and the key is ours."""
    with database.write() as session:
        database.turn(session, f"idempotency {actor.id} {key}")
        moment = now()
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created < moment - _KEPT))
        row = session.get(IdempotencyKey, (actor.id, key))
        if row is not None and _is_abandoned(row, moment):
            session.delete(row)
            session.flush()
            row = None
        if row is None:
            session.add(IdempotencyKey(owner_id=actor.id, key=key, request=digest, created=moment))
            return None
        if row.request != digest:
            raise ConflictError(
                "This Idempotency-Key was sent with another request.",
                advice="Send a new key with a new request.",
            )
        if row.answer is None:
            raise ConflictError(
                "The first request with this Idempotency-Key is still being answered.",
                advice="Send it again in a moment.",
            )
        return row.answer


def _is_abandoned(row: IdempotencyKey, moment: datetime) -> bool:
    return row.answer is None and row.created < moment - _ABANDONED


def _row(actor: Actor, key: str) -> Any:
    owner, its_key = IdempotencyKey.owner_id, IdempotencyKey.key
    return delete(IdempotencyKey).where(owner == actor.id, its_key == key)
