"""Run by Alembic; the connection and its transaction are the caller's."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from codetune.store.base import BIGINT, Json, Utc
from codetune.store.tables import METADATA

_NAMES = ((BIGINT, "BIGINT"), (Json, "Json"))


def _render(kind: str, what: Any, drafting: Any) -> str | Literal[False]:
    """Types of ours by their names, in a draft."""
    if kind != "type":
        return False
    names = [name for known, name in _NAMES if what is known or repr(what) == repr(known)]
    name = "Utc" if isinstance(what, Utc) else next(iter(names), None)
    if name is None:
        return False
    drafting.imports.add(f"from codetune.store.base import {name}")
    return f"{name}()" if name == "Utc" else name


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite alters little in place
    compare_type=True,
    render_item=_render,
    transactional_ddl=True,
)
context.run_migrations()
