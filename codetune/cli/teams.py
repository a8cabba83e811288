"""`codetune teams …`: who works together, and which models they share."""

from __future__ import annotations

import click

from codetune.cli.options import json_option
from codetune.cli.store import reading, record, show_rows, writing
from codetune.cli.terminal import print_json


@click.group()
def teams() -> None:
    """Make teams, and share models with them."""


@teams.command()
@click.argument("name")
def add(name: str) -> None:
    """Make a team.

    \b
    Examples:
      codetune teams add backend
    """
    from codetune.accounts.teams import add_team

    with writing() as session:
        team = add_team(session, name)
        record(session, "team.add", team.name)
    click.echo(f"There is a team {team.name} now.  Next: codetune teams join {team.name} USER")


@teams.command("list")
@json_option
def list_teams(as_json: bool) -> None:
    """List the teams, their members and what is shared with them.

    \b
    Examples:
      codetune teams list
    """
    from codetune.accounts import teams as accounts
    from codetune.registry.ownership import shared_with

    with reading() as session:
        rows = [
            {
                "name": team.name,
                "members": [user.name for user in accounts.members(session, team)],
                "models": [model.name for model in shared_with(session, team.id)],
            }
            for team in accounts.teams(session)
        ]
    if as_json:
        print_json({"teams": rows})
    else:
        show_rows(rows, "name", "members", "models")


@teams.command()
@click.argument("team")
@click.argument("user")
def join(team: str, user: str) -> None:
    """Take somebody into a team.

    \b
    Examples:
      codetune teams join backend ada
    """
    from codetune.accounts import teams as accounts
    from codetune.accounts.users import get_user

    with writing() as session:
        found, member = accounts.get_team(session, team), get_user(session, user)
        accounts.join(session, found, member)
        record(session, "team.join", found.name, user=member.name)
    click.echo(f"{member.name} is in the team {found.name}.")


@teams.command()
@click.argument("team")
@click.argument("user")
def leave(team: str, user: str) -> None:
    """Let somebody go; what they shared with the team stays shared.

    \b
    Examples:
      codetune teams leave backend ada
    """
    from codetune.accounts import teams as accounts
    from codetune.accounts.users import get_user

    with writing() as session:
        found, member = accounts.get_team(session, team), get_user(session, user)
        accounts.leave(session, found, member)
        record(session, "team.leave", found.name, user=member.name)
    click.echo(f"{member.name} has left the team {found.name}.")


@teams.command()
@click.argument("model")
@click.option("--team", help="With this team.")
@click.option("--everyone", is_flag=True, help="With everybody who has an account.")
@click.option("--private", is_flag=True, help="With nobody any more.")
@click.option("--owner", help="Give it to this user.")
def share(model: str, team: str | None, everyone: bool, private: bool, owner: str | None) -> None:
    """Share a model, all its versions, with a team or with everyone.

    \b
    Examples:
      codetune teams share shop --team backend
      codetune teams share shop --everyone
      codetune teams share shop --private --owner ada
    """
    from codetune.accounts.teams import get_team
    from codetune.accounts.users import get_user
    from codetune.artifacts import home
    from codetune.registry.access import LOCAL
    from codetune.registry.cards import Registry
    from codetune.registry.ownership import claim, share_model

    if (team is not None) + everyone + private != 1:
        raise click.UsageError("Say one of --team NAME, --everyone and --private.")
    name = Registry(home()).get(model).name
    with writing() as session:
        row = claim(session, LOCAL, name)
        if owner:
            row.owner_id = get_user(session, owner).id
        found = get_team(session, team) if team else None
        share_model(row, "team" if found else "everyone" if everyone else "private", found)
        record(session, "model.share", name, visibility=row.visibility, team=team)
    words = {"team": f"the team {team}", "everyone": "everyone", "private": "nobody"}
    given = f"{name} belongs to {owner} now, and" if owner else name
    click.echo(f"{given} is shared with {words[row.visibility]}.")
