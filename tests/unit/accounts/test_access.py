"""The authorisation function: a table of rules, and the same rule for single rows and for lists."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from codetune.errors import ForbiddenError, NotFoundError
from codetune.registry.access import (
    LOCAL,
    Action,
    Actor,
    Ownership,
    allow,
    readable,
    require,
    require_role,
)
from codetune.registry.ownership import Owners, claim, saved_as, share_model
from codetune.store.database import Database
from codetune.store.models import Model
from codetune.store.teams import Team
from codetune.store.users import LOCAL_USER, User

ADA = Actor("usr_ada", "ada", "member", frozenset({"team_a"}))
VIC = Actor("usr_vic", "vic", "viewer", frozenset({"team_a"}))
EVE = Actor("usr_eve", "eve", "member")
ROOT = Actor("usr_root", "root", "admin")
SMALL_ROOT = Actor("usr_root", "root", "admin", scopes=frozenset({"complete", "read", "write"}))
EDITOR = Actor("usr_ada", "ada", "member", frozenset({"team_a"}), frozenset({"complete"}))
EVERYBODY = (ADA, VIC, EVE, ROOT, SMALL_ROOT, EDITOR, LOCAL)

OWN = Ownership("usr_ada")
VICS = Ownership("usr_vic")
TEAM = Ownership("usr_bob", "team_a", "team")
LEFT = Ownership("usr_bob", "team_a", "private")  # was shared once
ALL = Ownership("usr_bob", None, "everyone")
PRIVATE = Ownership("usr_bob")

ALLOWED: dict[tuple[str, str], str] = {
    # who, what: the actions that are allowed with it
    ("ADA", "OWN"): "read use create write delete share",
    ("ADA", "TEAM"): "read use",
    ("ADA", "ALL"): "read use",
    ("VIC", "VICS"): "read use",
    ("VIC", "TEAM"): "read use",
    ("VIC", "ALL"): "read use",
    ("EVE", "ALL"): "read use",
    ("EDITOR", "OWN"): "use",
    ("EDITOR", "TEAM"): "use",
    ("EDITOR", "ALL"): "use",
    ("SMALL_ROOT", "ALL"): "read use",
    **{
        ("ROOT", what): "read use create write delete share manage"
        for what in ("OWN", "VICS", "TEAM", "LEFT", "ALL", "PRIVATE")
    },
}
ACTIONS: tuple[Action, ...] = ("read", "use", "create", "write", "delete", "share", "manage")


@pytest.mark.parametrize("who", ["ADA", "VIC", "EVE", "ROOT", "SMALL_ROOT", "EDITOR"])
@pytest.mark.parametrize("what", ["OWN", "VICS", "TEAM", "LEFT", "ALL", "PRIVATE"])
def test_what_is_allowed_is_what_the_table_says(who: str, what: str) -> None:
    actor, thing = globals()[who], globals()[what]
    allowed = {action for action in ACTIONS if allow(actor, action, thing)}
    assert allowed == set(ALLOWED.get((who, what), "").split())


def test_nobody_and_unknown_roles_scopes_and_actions_are_refused() -> None:
    assert not any(allow(None, action, ALL) for action in ACTIONS)
    stranger = Actor("usr_x", "x", "owner")  # type: ignore[arg-type]
    assert not any(allow(stranger, action, ALL) for action in ACTIONS)
    assert not allow(Actor("usr_x", "x", "admin", scopes=frozenset({"all"})), "read", ALL)
    assert not allow(ROOT, "rename", ALL)  # type: ignore[arg-type]


def test_what_is_not_yours_looks_like_what_is_not_there() -> None:
    words = set()
    for thing in (PRIVATE, LEFT, None):
        with pytest.raises(NotFoundError) as caught:
            require(ADA, "write", thing, "job 'x'")
        words.add(str(caught.value))
    assert len(words) == 1
    with pytest.raises(NotFoundError):
        require(None, "read", ALL, "job 'x'")
    with pytest.raises(ForbiddenError, match="only its owner"):
        require(ADA, "write", TEAM, "job 'x'")
    with pytest.raises(ForbiddenError, match="role 'viewer'"):
        require(VIC, "write", VICS, "job 'x'")
    with pytest.raises(ForbiddenError, match="scope 'read'"):
        require(EDITOR, "read", OWN, "job 'x'")
    with pytest.raises(ForbiddenError, match="scope 'admin'"):
        require_role(SMALL_ROOT, "manage")
    assert require(ADA, "write", OWN, "job 'x'") is OWN


def test_lists_show_what_single_reads_allow(database: Database) -> None:
    with database.write() as session:
        session.add_all(User(id=f"usr_{n}", name=n) for n in ("ada", "bob", "vic", "eve", "root"))
        session.add_all(Team(id=f"team_{n}", name=n) for n in "ab")
        session.flush()
        session.add_all(
            Model(name=f"{owner}/{team}/{shown}", owner_id=owner, team_id=team, visibility=shown)
            for owner in ("usr_ada", "usr_bob", "usr_vic", LOCAL_USER)
            for team in (None, "team_a", "team_b")
            for shown in ("private", "team", "everyone")
        )
    with database.session() as session:
        rows = session.scalars(select(Model)).all()
        assert len(rows) == 36
        for actor in EVERYBODY:
            listed = set(session.scalars(select(Model.id).where(readable(actor, Model))))
            free = Actor(actor.id, actor.name, actor.role, actor.teams)  # lists look at rows alone
            single = {row.id for row in rows if allow(free, "read", row)}
            if actor is not SMALL_ROOT:
                assert listed == single, actor
            names = Owners(database).visible(actor, [row.name for row in rows])
            assert names == {row.name for row in rows if row.id in listed}
        assert not session.scalars(select(Model).where(readable(None, Model))).all()


def test_models_without_an_owner_are_for_administrators(database: Database) -> None:
    owners = Owners(database)
    assert owners.visible(LOCAL, ["shop"]) == owners.visible(ROOT, ["shop"]) == {"shop"}
    for actor in (ADA, VIC, EDITOR, SMALL_ROOT):
        assert owners.visible(actor, ["shop"]) == set()


def test_two_users_may_call_their_models_the_same(database: Database) -> None:
    assert (saved_as(ADA, "shop"), saved_as(EVE, "shop")) == ("ada/shop", "eve/shop")
    assert (saved_as(LOCAL, "shop"), saved_as(ADA, "ada/shop")) == ("shop", "ada/shop")
    assert saved_as(EVE, "ada/shop") == "eve/ada/shop"
    with database.write() as session:
        session.add(User(id=ADA.id, name="ada"))
        session.flush()
        row = claim(session, ADA, "ada/shop")
        assert claim(session, ADA, "ada/shop") is row
        share_model(row, "everyone")
    from codetune.errors import ConflictError

    with pytest.raises(ConflictError, match="taken"), database.write() as session:
        claim(session, EVE, "ada/shop")
