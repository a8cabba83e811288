"""Personal API tokens: shown once, kept as a hash, revoked at once."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from codetune.errors import ConfigError, NotFoundError, nearest
from codetune.registry.access import SCOPES
from codetune.store.base import now
from codetune.store.tokens import Token
from codetune.store.users import User

PREFIX = "ct_"
DEFAULT_SCOPES = ("complete", "read", "write")  # what manages the server has to be asked for
_MOST = 100  # tokens of one user that are not revoked
_TIMES = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def make_token(
    session: Session,
    user: User,
    name: str,
    scopes: Iterable[str] = (),
    expires: datetime | None = None,
) -> tuple[Token, str]:
    """A new token's row, and the token itself: this is the only time that it can be seen.

    Raises:
        ConfigError: a scope that does not exist, a date in the past, or too many tokens.
    """
    asked = sorted(set(scopes) or DEFAULT_SCOPES)
    for scope in asked:
        if scope not in SCOPES:
            raise ConfigError(f"There is no scope '{scope}'.", advice=nearest(scope, SCOPES))
    if expires is not None and expires <= now():
        raise ConfigError("The token would have expired already.", advice="For example: 90d")
    if len([t for t in tokens_of(session, user) if t.revoked is None]) >= _MOST:
        raise ConfigError(f"A user may have {_MOST} tokens.", advice="Revoke some that are unused.")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        user_id=user.id,
        name=name.strip()[:128] or "token",
        digest=digest_of(secret),
        hint=secret[:8],
        scopes=asked,
        expires=expires,
    )
    session.add(token)
    session.flush()
    return token, secret


def tokens_of(session: Session, user: User) -> Sequence[Token]:
    """All tokens of a user, the newest first; revoked ones, too."""
    found = select(Token).where(Token.user_id == user.id).order_by(Token.created.desc(), Token.id)
    return session.scalars(found).all()


def revoke(session: Session, user: User, token_id: str) -> Token:
    """End a token of this user.

    Raises:
        NotFoundError: the user has none of that id.
    """
    token = session.scalar(select(Token).where(Token.id == token_id, Token.user_id == user.id))
    if token is None:
        raise NotFoundError(f"There is no token '{token_id}'.")
    token.revoked = token.revoked or now()
    return token


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def expiry(text: str | None) -> datetime | None:
    """A point in time from "90d", "12h", "2w" or an ISO date; None stays None.

    Raises:
        ConfigError: it is none of these.
    """
    if text is None:
        return None
    if match := re.fullmatch(r"(\d{1,5})([hdw])", text.strip()):
        return now() + int(match[1]) * _TIMES[match[2]]
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (OverflowError, ValueError) as error:  # at either end of time zones lead out of it
        raise ConfigError(
            f"'{text[:40]}' is no time to expire at.", advice="For example: 12h, 90d, 2027-01-31"
        ) from error
