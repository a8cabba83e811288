"""`codetune users …` and `codetune teams …`: who may use this server, and what they share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from codetune.cli.options import json_option
from codetune.cli.store import reading, record, show_rows, writing
from codetune.cli.terminal import moment, print_json
from codetune.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from codetune.store.users import User

ROLE = click.Choice(["admin", "member", "viewer"])


@click.group()
def users() -> None:
    """Make accounts, give them roles and tokens.

    The first account is an administrator; from then on `codetune serve` asks for a login.
    """


@users.command()
@click.argument("name")
@click.option("--role", type=ROLE, help="What they may do.  [the first: admin; then: member]")
@click.option(
    "--password",
    help="It can be seen in the list of processes: better leave it out, and be asked.",
)
@click.option("--no-password", is_flag=True, help="Only tokens: codetune users token NAME.")
def add(name: str, role: str | None, password: str | None, no_password: bool) -> None:
    """Make an account.

    \b
    Examples:
      codetune users add ada
      codetune users add build-server --role viewer --no-password
      pwgen 20 1 | codetune users add bob
    """
    from codetune.accounts import users as accounts

    if password is None and not no_password:
        password = _asked_password()
    with writing() as session:
        role = role or ("member" if accounts.have_admin(session) else "admin")
        user = accounts.add_user(session, name, password, role)
        record(session, "user.add", user.name, role=user.role)
    click.echo(f"{user.name} is {_article(user.role)} now.")
    click.echo(f"Next: a token for their editor: codetune users token {user.name}")


@users.command("list")
@json_option
def list_users(as_json: bool) -> None:
    """List the accounts.

    \b
    Examples:
      codetune users list
      codetune users list --json
    """
    from codetune.accounts import users as accounts

    with reading() as session:
        rows = [_seen(session, user) for user in accounts.people(session)]
    if as_json:
        print_json({"users": rows})
    elif not rows:
        click.echo("There are no accounts: this machine's user needs none.")
        click.echo("Next: codetune users add NAME")
    else:
        for row in rows:
            row["last_login"] = row["last_login"] and moment(row["last_login"])
        show_rows(rows, "name", "role", "status", "teams", "tokens", "last_login")


@users.command()
@click.argument("name")
def disable(name: str) -> None:
    """Lock somebody out at once, with all their logins and tokens.

    \b
    Examples:
      codetune users disable bob
    """
    _set_disabled(name, True)


@users.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let somebody in again; their tokens work again, too.

    \b
    Examples:
      codetune users enable bob
    """
    _set_disabled(name, False)


@users.command()
@click.argument("name")
@click.argument("role", metavar="admin|member|viewer", type=ROLE)
def role(name: str, role: str) -> None:
    """Say what somebody may do.

    A viewer asks models; a member also tunes their own; an admin manages the server.

    \b
    Examples:
      codetune users role bob admin
    """
    from codetune.accounts import users as accounts

    with writing() as session:
        user = accounts.get_user(session, name)
        accounts.set_role(session, user, role)
        record(session, "user.role", user.name, role=role)
    click.echo(f"{user.name} is {_article(role)} now.")


@users.command(short_help="Give somebody a new password; their logins end.")
@click.argument("name")
@click.option("--password", help="It can be seen in the list of processes: better be asked.")
def passwd(name: str, password: str | None) -> None:
    """Give somebody a new password; their logins end, their tokens stay.

    \b
    Examples:
      codetune users passwd ada
    """
    from codetune.accounts import users as accounts

    password = password or _asked_password()
    with writing() as session:
        user = accounts.get_user(session, name)
        accounts.set_password(user, password)
        record(session, "user.password", user.name)
    click.echo(f"{user.name} has a new password.")


@users.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="complete, read, write, metrics, admin. Repeatable.",
)
@click.option("--expires", help="12h, 90d, 2w or a date.  [never]")
@click.option("--label", default="command line", show_default=True, help="What it is for.")
@click.option("--list", "show", is_flag=True, help="List the tokens there are.")
@click.option("--revoke", metavar="ID", help="End a token.")
def token(
    name: str,
    scopes: tuple[str, ...],
    expires: str | None,
    label: str,
    show: bool,
    revoke: str | None,
) -> None:
    """Make a personal token; it is printed once, and kept as a hash.

    An editor needs the scope complete alone. Without --scope: complete, read and write.

    \b
    Examples:
      codetune users token ada --scope complete --label vim
      codetune users token ada --expires 90d
      codetune users token ada --list
      codetune users token ada --revoke tok_0123456789abcdef01234567
    """
    from codetune.accounts import tokens
    from codetune.accounts import users as accounts

    if show:
        with reading() as session:
            rows = tokens.tokens_of(session, accounts.get_user(session, name))
        show_rows([_token(row) for row in rows], "id", "name", "scopes", "status", "last_used")
        return
    with writing() as session:
        user = accounts.get_user(session, name)
        if revoke:
            tokens.revoke(session, user, revoke)
            record(session, "token.revoke", revoke)
            click.echo(f"{revoke} is no longer good for anything.")
            return
        row, secret = tokens.make_token(session, user, label, scopes, tokens.expiry(expires))
        record(session, "token.add", row.id, scopes=row.scopes, user=user.name)
    click.echo(secret)
    click.echo(f"A token of {user.name} ({', '.join(row.scopes)}); not shown again.", err=True)


@users.command()
@click.option("-n", "limit", default=50, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--action", help="Only this, such as login.failed.")
@click.option("--actor", help="Only what this user did.")
@json_option
def audit(limit: int, action: str | None, actor: str | None, as_json: bool) -> None:
    """Show who did what, when and from where; the newest first.

    \b
    Examples:
      codetune users audit
      codetune users audit --action login.failed -n 20
    """
    from codetune.accounts import audit as log

    with reading() as session:
        rows = [
            {
                "at": entry.at.isoformat(timespec="seconds"),
                "actor": entry.actor,
                "action": entry.action,
                "subject": entry.subject,
                "address": entry.address,
                "details": entry.details,
            }
            for entry in log.entries(session, limit=limit, action=action, actor=actor)
        ]
    if as_json:
        print_json({"audit": rows})
        return
    shown = [row | {"at": moment(str(row["at"]))} for row in rows]
    show_rows(shown, "at", "actor", "action", "subject", "address")


@users.command()
@click.option(
    "--days", default=30, show_default=True, type=click.IntRange(1, 3650), help="Today included."
)
@click.option("--by-day", is_flag=True, help="A row for each day.")
@json_option
def usage(days: int, by_day: bool, as_json: bool) -> None:
    """Show who asked how much of which model; days are those of UTC.

    \b
    Examples:
      codetune users usage
      codetune users usage --days 7 --by-day
      codetune users usage --json
    """
    from dataclasses import asdict

    from codetune.registry.access import LOCAL
    from codetune.workspace import analytics

    with reading() as session:
        used = analytics.usage(session, LOCAL, days, by_day=by_day)
    rows = [asdict(one) for one in used]
    if as_json:
        print_json({"days": days, "usage": rows})
        return
    for row in rows:
        for field in ("seconds", "first_token_seconds"):
            row[field] = None if row[field] is None else f"{row[field]:.3f}"
    columns = ("user", "model", "requests", "cancelled", "prompt_tokens", "tokens", "seconds")
    show_rows(rows, *(("day",) if by_day else ()), *columns, "first_token_seconds")


def _set_disabled(name: str, disabled: bool) -> None:
    from codetune.accounts import users as accounts

    with writing() as session:
        user = accounts.get_user(session, name)
        accounts.set_disabled(session, user, disabled)
        record(session, "user.disable" if disabled else "user.enable", user.name)
    click.echo(f"{user.name} is {'locked out' if disabled else 'in again'}.")


def _asked_password() -> str:
    """From the terminal, twice and unseen; else the first line of the standard input."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise ConfigError("There is no password.", advice="--no-password for tokens alone.")
        return password
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return asked


def _seen(session: Session, user: User) -> dict[str, Any]:
    from codetune.accounts import teams, tokens

    return {
        "id": user.id,
        "name": user.name,
        "role": user.role,
        "status": "disabled" if user.disabled else "active",
        "teams": [t.name for t in teams.teams(session) if user in teams.members(session, t)],
        "tokens": sum(t.revoked is None for t in tokens.tokens_of(session, user)),
        "last_login": user.last_login.isoformat(timespec="minutes") if user.last_login else None,
    }


def _token(row: Any) -> dict[str, Any]:
    ended = row.revoked or row.expires
    word = "revoked" if row.revoked else "expires"
    return {
        "id": row.id,
        "name": row.name,
        "scopes": row.scopes,
        "status": f"{word} {ended.isoformat(timespec='minutes')}" if ended else "active",
        "last_used": row.last_used.isoformat(timespec="minutes") if row.last_used else None,
    }


def _article(role: str) -> str:
    return f"an {role}" if role == "admin" else f"a {role}"
