"""`codetune backup FILE` and `codetune restore FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codetune.registry.backup import Backup

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("file", type=_FILE)
def backup(file: Path) -> None:
    """Write database and models to one file.

    They may be in use meanwhile. The file holds the hashes of passwords and tokens: nobody else
    can read it. Caches, sources and the folders of runs are not in it: they are made anew.

    \b
    Examples:
      codetune backup /backups/codetune-$(date +%F).tar
    """
    from codetune.artifacts import home
    from codetune.errors import ConfigError
    from codetune.registry.backup import back_up
    from codetune.store.database import Database

    if not (folder := file.absolute().parent).is_dir():
        raise ConfigError(f"There is no folder {folder}.", advice="Make it, or name another.")
    with Database.open() as database:
        made = back_up(database, home(), file)
    click.echo(f"{file}: {_words(made)}.")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Throw away the accounts and models that are here.")
def restore(file: Path, replace: bool) -> None:
    """Put a backup's database and models here.

    Stop the server first. The file is checked before anything is touched. A backup of SQLite can
    be restored to PostgreSQL, and the other way round.

    \b
    Examples:
      codetune restore /backups/codetune-2026-11-20.tar
      CODETUNE_DATABASE=postgresql://… codetune restore codetune.tar
    """
    from codetune.artifacts import home
    from codetune.registry.backup import restore as put_back
    from codetune.store.database import Database
    from codetune.store.in_use import restoring_to

    with restoring_to(home()), Database.open() as database:
        found = put_back(database, home(), file, replace=replace)
    click.echo(f"Restored: {_words(found)}, of {found.created} (codetune {found.codetune}).")


def _words(backup: Backup) -> str:
    many = "1 model version" if backup.models == 1 else f"{backup.models} model versions"
    return f"the database and {many}, {backup.size / 1e6:.1f} MB"
