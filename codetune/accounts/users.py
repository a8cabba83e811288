"""Users: made, listed, disabled, given a role or a password. Always inside one transaction."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from codetune.accounts.passwords import hashed
from codetune.errors import ConfigError, ConflictError, NotFoundError, nearest
from codetune.registry.access import ALL_SCOPES, Actor, Role
from codetune.store.base import now
from codetune.store.teams import Membership
from codetune.store.tokens import Token
from codetune.store.users import LOCAL_USER, ROLES, User

# A name stands before the models that its owner saves ("ada/shop"), and so it is one part of a
# model's name.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,38}")
_RESERVED = frozenset({"local", "nano", "admin", "root", "system", "codetune"})
_ID = "usr_"  # ids begin so, and names do not: one must never be read as the other


def people(session: Session) -> Sequence[User]:
    """All accounts that somebody made, by name."""
    return session.scalars(select(User).where(User.id != LOCAL_USER).order_by(User.name)).all()


def have_admin(session: Session) -> bool:
    """Is there an administrator who may log in? Then this is a server with accounts."""
    return _admins(session) > 0


def add_user(session: Session, name: str, password: str | None, role: str = "member") -> User:
    """Make an account; without a password it is reached by tokens alone.

    Raises:
        ConfigError: the name, the password or the role cannot be used.
        ConflictError: the name is taken.
    """
    name = checked_name(name)
    if role not in ROLES:
        raise ConfigError(f"There is no role '{role}'.", advice=nearest(role, ROLES))
    if session.scalar(select(User.id).where(User.name == name)):
        raise ConflictError(f"There is a user '{name}' already.", advice="Choose another name.")
    user = User(
        name=name, role=role, password_hash=None if password is None else hashed(password, name)
    )
    session.add(user)
    session.flush()
    return user


def checked_name(name: str) -> str:
    """The name in lower case.

    Raises:
        ConfigError: it cannot be a user's.
    """
    lower = name.strip().lower()
    if not _NAME.fullmatch(lower) or lower in _RESERVED or lower.startswith(_ID):
        raise ConfigError(
            f"{name[:60]!r} cannot be a user's name.",
            advice="Use letters, digits, '.', '_' and '-', at most 39, beginning with a letter or "
            f"digit; reserved are {', '.join(sorted(_RESERVED))} and what begins with '{_ID}'.",
        )
    return lower


def get_user(session: Session, name: str) -> User:
    """The account of this id, else of this name.

    Raises:
        NotFoundError: there is none; the nearest is named.
    """
    for which in (User.id == name, User.name == name.lower()):
        found = session.scalar(select(User).where(which, User.id != LOCAL_USER))
        if found is not None:
            return found
    known = session.scalars(select(User.name).where(User.id != LOCAL_USER)).all()
    raise NotFoundError(
        f"There is no user '{name}'.",
        advice=nearest(name, known) or "Make one: codetune users add NAME",
    )


def set_disabled(session: Session, user: User, disabled: bool) -> None:
    """Lock somebody out, at once and with all their tokens, or let them in again.

    Raises:
        ConflictError: nobody could administer this server any more.
    """
    if disabled and not user.disabled:
        _keep_an_admin(session, user)
        user.epoch += 1
    user.disabled = disabled


def set_role(session: Session, user: User, role: str) -> None:
    """Raises:
    ConfigError: there is no such role.
    ConflictError: nobody could administer this server any more.
    """
    if role not in ROLES:
        raise ConfigError(f"There is no role '{role}'.", advice=nearest(role, ROLES))
    if role != "admin":
        _keep_an_admin(session, user)
    user.role = role


def set_password(user: User, password: str) -> None:
    """Change the password; earlier logins end, tokens stay.

    Raises:
        ConfigError: the password cannot be used.
    """
    user.password_hash = hashed(password, user.name)
    user.epoch += 1


def actor_of(
    session: Session,
    user: User,
    scopes: frozenset[str] = ALL_SCOPES,
    token_id: str | None = None,
) -> Actor:
    """The user as the one who asks, as things stand now."""
    teams = session.scalars(select(Membership.team_id).where(Membership.user_id == user.id))
    role: Role = user.role  # type: ignore[assignment]  # the table's constraint
    return Actor(user.id, user.name, role, frozenset(teams), scopes, token_id)


def as_of_now(session: Session, actor: Actor) -> Actor | None:
    """The actor as things stand now; None if they could not log in any more."""
    if actor.is_local:
        return actor
    user = session.get(User, actor.id)
    if user is None or user.disabled:
        return None
    if actor.token_id is not None:
        token = session.get(Token, actor.token_id)
        if token is None or token.revoked or (token.expires and token.expires <= now()):
            return None
    return actor_of(session, user, actor.scopes, actor.token_id)


def _admins(session: Session) -> int:
    found = session.scalar(
        select(func.count())
        .select_from(User)
        .where(User.role == "admin", User.disabled.is_(False), User.id != LOCAL_USER)
    )
    return found or 0


def _keep_an_admin(session: Session, user: User) -> None:
    if user.role == "admin" and not user.disabled and _admins(session) == 1:
        raise ConflictError(
            f"'{user.name}' is the only administrator.",
            advice="Make another one first: codetune users role NAME admin",
        )
