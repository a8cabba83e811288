"""Which database a home's servers and workers use, for commands that were not told.

Someone who forgets `$CODETUNE_DATABASE` would else ask, and make, an empty one: see no users,
and back up nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from codetune.artifacts import write_json
from codetune.errors import ConfigError

_FILE = "database.json"


def bind(home: Path, url: str | None) -> None:
    """Say in `home` that its database is at `url`, without a password; None: in the home itself.

    Raises:
        OSError: it cannot be written.
    """
    if url is None:
        (home / _FILE).unlink(missing_ok=True)
    elif url != _bound(home):
        write_json(home / _FILE, {"url": url})


def refuse_if_elsewhere(home: Path, variable: str) -> None:
    """Refuse the home's own database where the last server of this home used another one.

    Raises:
        ConfigError: so it is; the environment's `variable` has to say which one is meant.
    """
    url = _bound(home)
    if url is not None:
        raise ConfigError(
            f"The database of {home} is {url}, and ${variable} is not set.",
            advice=f"Set {variable} to it, with its password if it has one; or to nothing "
            f"({variable}=) for one in the folder itself.",
        )


def _bound(home: Path) -> str | None:
    try:
        return str(json.loads((home / _FILE).read_bytes())["url"])
    except FileNotFoundError:
        return None
