"""`python -m codetune.store.migrations "what changes"`: draft the next change of the schema.

The draft compares the tables in the code with those that the migrations make. Read it before
you keep it: Alembic takes a renamed column for a new one, and knows nothing of the rows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from codetune.store.database import Database
from codetune.store.schema import configuration, versions


def main(message: str) -> None:
    """Write `versions/NNNN_message.py`."""
    from alembic import command

    number = f"{int(versions()[-1]) + 1 if versions() else 1:04d}"
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'draft.db'}"
        with Database.open(url) as database, database.connection() as connection:
            config = configuration(connection)
            config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
            command.revision(config, message, rev_id=number, autogenerate=True)


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "change")
