"""Logins and tokens, on both databases: what is kept, what expires, what is refused."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from sqlalchemy import select, text, update

from codetune.accounts import passwords, teams, tokens, users
from codetune.accounts.audit import Origin, entries
from codetune.accounts.config import AccountOptions
from codetune.accounts.logins import Logins
from codetune.accounts.secret import signing_secret
from codetune.accounts.tokens import expiry
from codetune.errors import (
    ConfigError,
    ConflictError,
    LoginError,
    LoginLimitError,
    NotFoundError,
    StoreError,
)
from codetune.store.audit import LoginFailure
from codetune.store.base import now
from codetune.store.teams import Team
from codetune.store.tokens import Token
from codetune.store.users import User
from tests.accounts import PASSWORD, People

HERE = Origin("10.0.0.1", "req-1")


def test_a_login_names_its_user_until_it_expires(people: People) -> None:
    actor, signed, seconds = people.logins.log_in(" Ada ", PASSWORD, HERE)
    assert (actor.name, actor.role, actor.teams) == ("ada", "member", {people.team_id})
    assert seconds == 12 * 3600
    assert people.logins.identify(signed) == actor
    secret = people.logins._secret
    claims = jwt.decode(signed, secret, algorithms=["HS256"])
    for change in (
        {"exp": now() - timedelta(seconds=1)},
        {"sub": "usr_local"},
        {"sub": "usr_nobody"},
        {"epoch": 7},
    ):
        with pytest.raises(LoginError):
            people.logins.identify(jwt.encode({**claims, **change}, secret, algorithm="HS256"))
    for forged in (
        jwt.encode(claims, "another secret that is long enough", algorithm="HS256"),
        jwt.encode(claims, "", algorithm="none"),
        signed + "x",
        "x",
        "",
    ):
        with pytest.raises(LoginError):
            people.logins.identify(forged)
    without = {k: v for k, v in claims.items() if k != "exp"}
    with pytest.raises(LoginError):
        people.logins.identify(jwt.encode(without, secret, algorithm="HS256"))


def test_a_new_password_and_being_disabled_end_logins_at_once(people: People) -> None:
    _, first, _ = people.logins.log_in("ada", PASSWORD, HERE)
    with people.logins.database.write() as session:
        users.set_password(users.get_user(session, "ada"), "another good password")
    with pytest.raises(LoginError):
        people.logins.identify(first)
    with pytest.raises(LoginError):
        people.logins.log_in("ada", PASSWORD, HERE)
    _, second, _ = people.logins.log_in("ada", "another good password", HERE)
    with people.logins.database.write() as session:
        users.set_disabled(session, users.get_user(session, "ada"), True)
    for credential in (second, people.tokens["ada"]):
        with pytest.raises(LoginError):
            people.logins.identify(credential)
    with pytest.raises(LoginError):
        people.logins.log_in("ada", "another good password", HERE)
    with people.logins.database.write() as session:
        users.set_disabled(session, users.get_user(session, "ada"), False)
    assert people.logins.identify(people.tokens["ada"]).name == "ada"
    with pytest.raises(LoginError):
        people.logins.identify(second)


def test_tokens_are_kept_as_hashes_and_can_be_revoked_and_expire(people: People) -> None:
    database, secret = people.logins.database, people.tokens["ada"]
    kind = "CAST(tokens AS TEXT)" if not database.is_sqlite else "digest || hint || name"
    with database.session() as session:
        assert secret not in str(session.execute(text(f"SELECT {kind} FROM tokens")).all())
        assert secret[8:] not in str(session.scalars(select(Token.hint)).all())
    actor = people.logins.identify(secret)
    with database.write() as session:
        (row,) = tokens.tokens_of(session, users.get_user(session, "ada"))
        assert (row.id, row.last_used is not None) == (actor.token_id, True)
        session.execute(update(Token).where(Token.id == row.id).values(expires=now()))
    with pytest.raises(LoginError):
        people.logins.identify(secret)
    with database.write() as session:
        ada = users.get_user(session, "ada")
        row, second = tokens.make_token(session, ada, "two", ["complete"], expiry("2w"))
    assert people.logins.identify(second).scopes == {"complete"}
    with database.write() as session:
        with pytest.raises(NotFoundError):
            tokens.revoke(session, users.get_user(session, "bob"), row.id)
        tokens.revoke(session, users.get_user(session, "ada"), row.id)
    with pytest.raises(LoginError):
        people.logins.identify(second)


def test_failed_logins_are_limited_by_name_and_by_address_and_survive_a_restart(
    people: People, tmp_path: Path
) -> None:
    database = people.logins.database
    options = AccountOptions(failures_per_name=3, failures_per_address=5)
    for _ in range(3):
        with pytest.raises(LoginError):
            Logins(database, tmp_path, options).log_in("ada", "wrong", HERE)
    with pytest.raises(LoginLimitError) as caught:
        Logins(database, tmp_path, options).log_in("ada", PASSWORD, Origin("10.0.0.2"))
    assert 0 < caught.value.retry_after <= 900
    logins = Logins(database, tmp_path, options)
    logins.log_in("bob", PASSWORD, HERE)  # a right one does not count
    for name in ("nobody", "local"):
        with pytest.raises(LoginError):
            logins.log_in(name, PASSWORD, HERE)
    with pytest.raises(LoginLimitError):
        logins.log_in("bob", PASSWORD, HERE)
    with database.write() as session:
        session.execute(update(LoginFailure).values(at=now() - timedelta(minutes=16)))
    logins.log_in("ada", PASSWORD, HERE)
    with database.session() as session:
        failed = entries(session, action="login.failed")
        assert {(e.subject, e.address) for e in failed} == {
            ("ada", "10.0.0.1"),
            ("nobody", "10.0.0.1"),
            ("local", "10.0.0.1"),
        }


def test_many_tries_at_once_are_not_more_tries(people: People, tmp_path: Path) -> None:
    logins = Logins(people.logins.database, tmp_path, AccountOptions(failures_per_name=4))
    outcomes: list[str] = []

    def guess() -> None:
        try:
            logins.log_in("ada", "wrong", HERE)
        except (LoginError, LoginLimitError) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=guess) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 12
    assert outcomes.count("LoginError") == 4


def test_names_roles_and_passwords_are_checked(people: People) -> None:
    database = people.logins.database
    for name in ("", "a b", "../x", "a/b", "local", "nano", "x" * 40, "-x", "ä", "Usr_1"):
        with pytest.raises(ConfigError), database.write() as session:
            users.add_user(session, name, PASSWORD)
    for password in ("short", "x" * 257, "alexandra1"):
        with pytest.raises(ConfigError), database.write() as session:
            users.add_user(session, "alexandra", password)
    with pytest.raises(ConfigError, match="member"), database.write() as session:
        users.add_user(session, "zoe", PASSWORD, "membre")
    with pytest.raises(ConflictError), database.write() as session:
        users.add_user(session, "ADA", PASSWORD)
    for act in (
        lambda s, u: users.set_disabled(s, u, True),
        lambda s, u: users.set_role(s, u, "member"),
    ):
        with pytest.raises(ConflictError, match="only administrator"), database.write() as session:
            act(session, users.get_user(session, "root1"))
    with pytest.raises(NotFoundError), database.session() as session:
        users.get_user(session, "local")


@pytest.mark.parametrize(
    "text", ["soon", "0001-01-01", "0001-01-01T00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
def test_times_that_are_none_in_utc_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no time to expire"):
        expiry(text)


def test_whose_name_is_anothers_id_does_not_take_their_place(people: People) -> None:
    ada = people.ids["ada"]
    for add in (
        lambda session: users.add_user(session, ada, PASSWORD),
        lambda session: teams.add_team(session, people.team_id),
    ):
        with pytest.raises(ConfigError, match="begin"), people.logins.database.write() as session:
            add(session)
    with people.logins.database.write() as session:  # made before such names were refused
        session.add_all([User(name=ada), Team(name=people.team_id)])
    with people.logins.database.session() as session:
        assert users.get_user(session, ada).name == "ada"
        assert teams.get_team(session, people.team_id).name == "backend"


def test_registering_is_limited_by_address(people: People, tmp_path: Path) -> None:
    options = AccountOptions(registrations_per_address=2)
    logins = Logins(people.logins.database, tmp_path, options)
    for name in ("new1", "new2"):
        assert logins.register(name, PASSWORD, HERE).role == "member"
    with pytest.raises(LoginLimitError):
        logins.register("new3", PASSWORD, HERE)
    logins.register("new4", PASSWORD, Origin("10.0.0.9"))
    with people.logins.database.session() as session:
        assert session.scalar(select(User).where(User.name == "new3")) is None


def test_the_secret_is_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(signing_secret(tmp_path))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 8
    path = tmp_path / "signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["signing.key"]
    path.chmod(0o640)
    with pytest.raises(StoreError, match="read by others"):
        signing_secret(tmp_path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(StoreError, match="damaged"):
        signing_secret(tmp_path)


def test_passwords_are_argon2id_with_the_recommended_costs() -> None:
    kept = passwords.hashed(PASSWORD, "ada")
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.matches(PASSWORD, kept)
    assert not passwords.matches(PASSWORD + "x", kept)
    assert not passwords.matches("nobody has this password", None)
    assert not passwords.matches("x", "not a hash")
