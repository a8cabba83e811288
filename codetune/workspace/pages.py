"""A part of a list, and how long the whole of it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

Row = TypeVar("Row")


@dataclass(frozen=True)
class Window:
    """Which part is wanted: `limit` things after the first `offset` ones."""

    limit: int = 50
    offset: int = 0


@dataclass(frozen=True)
class Page(Generic[Row]):
    """The part that was wanted; `total` counts all of them."""

    items: Sequence[Row]
    total: int
    window: Window


def page_of(session: Session, found: Select[Row], window: Window, *order: Any) -> Page[Row]:
    """The rows of `found` in `order`, as far as `window` reaches."""
    counted = select(func.count()).select_from(found.order_by(None).subquery())
    rows = found.order_by(*order).limit(window.limit).offset(window.offset)
    return Page(session.scalars(rows).all(), session.scalar(counted) or 0, window)


def slice_of(items: Sequence[Row], window: Window) -> Page[Row]:
    """The same of what does not stand in the database."""
    last = window.offset + window.limit
    return Page(items[window.offset : last], len(items), window)
