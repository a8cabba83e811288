"""Who is it? By password, by the login that a password gave, or by a personal token."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import jwt
from sqlalchemy import Row, bindparam, delete, func, select, update
from sqlalchemy.orm import Session

from codetune.accounts import audit
from codetune.accounts.audit import Origin
from codetune.accounts.config import AccountOptions
from codetune.accounts.door import Door
from codetune.accounts.passwords import hashed, is_outdated, matches
from codetune.accounts.secret import signing_secret
from codetune.accounts.tokens import PREFIX, digest_of
from codetune.accounts.users import actor_of, add_user
from codetune.errors import LoginError, LoginLimitError
from codetune.registry.access import ALL_SCOPES, Actor
from codetune.store.audit import AuditEntry, LoginFailure
from codetune.store.base import now
from codetune.store.database import Database
from codetune.store.teams import Membership
from codetune.store.tokens import Token
from codetune.store.users import LOCAL_USER, User

_WINDOW = timedelta(minutes=15)  # in which failed logins count
_KEPT = timedelta(days=1)
_SEEN = timedelta(minutes=1)  # how exactly a token's last use is known
_REGISTERED = "register"


# Who it is and their teams in one statement, a row a team: this is asked with every request.
_WHO = select(User.id, User.name, User.role, User.disabled, User.epoch, Membership.team_id)
_BY_LOGIN = _WHO.outerjoin(Membership, Membership.user_id == User.id).where(
    User.id == bindparam("user"), User.id != bindparam("local")
)
_BY_TOKEN = (
    _WHO.add_columns(
        Token.id.label("token_id"), Token.scopes, Token.revoked, Token.expires, Token.last_used
    )
    .join(Token, Token.user_id == User.id)
    .outerjoin(Membership, Membership.user_id == User.id)
    .where(Token.digest == bindparam("digest"))
)


class Logins:
    """The accounts of one database, and the secret that their logins are signed with."""

    def __init__(self, database: Database, home: Path, options: AccountOptions) -> None:
        self.database, self.options = database, options
        self.door = Door(database)
        self._secret = signing_secret(home)

    def log_in(self, name: str, password: str, origin: Origin) -> tuple[Actor, str, int]:
        """The user, a signed login, and the seconds that it is good for.

        Raises:
            LoginError: name and password do not belong together, or the account is disabled.
            LoginLimitError: too many logins of this name, or from this address, have failed.
        """
        name = name.strip().lower()[:64]
        # The try is counted before it is judged: many at once are not more tries than that.
        attempt = self._begin(name, origin)
        with self.database.session() as session:
            user = session.scalar(select(User).where(User.name == name, User.id != LOCAL_USER))
        right = matches(password, user.password_hash if user else None)
        if user is None or not right or user.disabled:
            with self.database.write() as session:
                audit.record(session, None, "login.failed", name, origin)
            raise LoginError("The name and the password do not belong together.")
        with self.database.write() as session:
            session.execute(
                delete(LoginFailure).where(
                    (LoginFailure.id == attempt) | (LoginFailure.name == name)
                )
            )
            user = session.get_one(User, user.id)
            user.last_login = now()
            if user.password_hash and is_outdated(user.password_hash):
                user.password_hash = hashed(password, user.name)
            actor = actor_of(session, user)
            audit.record(session, actor, "login", user.name, origin)
        return actor, *self._sign(user)

    def register(self, name: str, password: str, origin: Origin) -> User:
        """Make oneself an account, as a member.

        Raises:
            ConfigError, ConflictError: as `add_user`.
            LoginLimitError: this address has made too many.
        """
        with self.database.write() as session:
            self.database.turn(session, "registrations")
            today = session.scalar(
                select(func.count())
                .select_from(AuditEntry)
                .where(
                    AuditEntry.action == _REGISTERED,
                    AuditEntry.address == origin.address,
                    AuditEntry.at > now() - _KEPT,
                )
            )
            if (today or 0) >= self.options.registrations_per_address:
                raise LoginLimitError(
                    "Too many accounts were made from your address.", retry_after=3600
                )
            user = add_user(session, name, password)
            audit.record(session, actor_of(session, user), _REGISTERED, user.name, origin)
        return user

    def identify(self, credential: str) -> Actor:
        """Whoever a login or a token belongs to.

        Raises:
            LoginError: it is unknown, revoked or expired, or the account is disabled.
        """
        return (
            self._by_token(credential)
            if credential.startswith(PREFIX)
            else self._by_login(credential)
        )

    def _by_token(self, secret: str) -> Actor:
        rows = self.database.rows(_BY_TOKEN, digest=digest_of(secret))
        if not rows:
            _refuse()
        token, at = rows[0], now()
        if token.revoked or token.disabled or (token.expires and token.expires <= at):
            _refuse()
        if token.last_used is None or token.last_used < at - _SEEN:
            with self.database.write() as session:
                session.execute(
                    update(Token).where(Token.id == token.token_id).values(last_used=at)
                )
        return _actor(rows, frozenset(token.scopes), token.token_id)

    def _by_login(self, signed: str) -> Actor:
        claims = self._claims(signed)
        rows = self.database.rows(_BY_LOGIN, user=str(claims["sub"]), local=LOCAL_USER)
        if not rows or rows[0].disabled or rows[0].epoch != claims.get("epoch"):
            _refuse()
        return _actor(rows, ALL_SCOPES, None)

    def _sign(self, user: User) -> tuple[str, int]:
        seconds = round(self.options.login_hours * 3600)
        at = datetime.now(UTC)
        claims = {
            "sub": user.id,
            "epoch": user.epoch,
            "iat": at,
            "exp": at + timedelta(seconds=seconds),
        }
        return jwt.encode(claims, self._secret, algorithm="HS256"), seconds

    def _claims(self, signed: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                signed,
                self._secret,
                algorithms=["HS256"],
                options={"require": ["exp", "iat", "sub"]},
            )
        except jwt.PyJWTError:
            _refuse()

    def _begin(self, name: str, origin: Origin) -> int:
        """Count a try.

        Raises:
            LoginLimitError: it is one too many.
        """
        limits = (
            (LoginFailure.name == name, self.options.failures_per_name),
            (LoginFailure.address == origin.address, self.options.failures_per_address),
        )
        with self.database.write() as session:
            self.database.turn(session, "logins")
            session.execute(delete(LoginFailure).where(LoginFailure.at < now() - _KEPT))
            for whose, most in limits:
                self._check(session, whose, most)
            attempt = LoginFailure(name=name, address=origin.address)
            session.add(attempt)
            session.flush()
            return attempt.id

    def _check(self, session: Session, whose: Any, most: int) -> None:
        times = session.scalars(
            select(LoginFailure.at)
            .where(whose, LoginFailure.at > now() - _WINDOW)
            .order_by(LoginFailure.at.desc())
            .limit(most)
        ).all()
        if len(times) < most:
            return
        wait = max(1, round((times[-1] + _WINDOW - now()).total_seconds()))
        raise LoginLimitError(
            "Too many logins have failed.", retry_after=wait, advice=f"Wait {wait} seconds."
        )


def _actor(rows: Sequence[Row[Any]], scopes: frozenset[str], token_id: str | None) -> Actor:
    teams = frozenset(row.team_id for row in rows if row.team_id is not None)
    return Actor(rows[0].id, rows[0].name, rows[0].role, teams, scopes, token_id)


def _refuse() -> NoReturn:
    raise LoginError(
        "This login or token is unknown, revoked or has expired.",
        advice="Log in again (POST /token), or make a token: codetune users token NAME",
    )
