"""All tables, so that the migrations see the whole of them."""

from __future__ import annotations

from codetune.store import (
    audit,
    completions,
    datasets,
    evaluations,
    idempotency,
    jobs,
    models,
    settings,
    sources,
    teams,
    tokens,
    usage,
    users,
)
from codetune.store.base import Base

__all__ = [
    "METADATA",
    "audit",
    "completions",
    "datasets",
    "evaluations",
    "idempotency",
    "jobs",
    "models",
    "settings",
    "sources",
    "teams",
    "tokens",
    "usage",
    "users",
]

METADATA = Base.metadata
