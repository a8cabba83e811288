"""What each route asks of whoever calls it; a dict beside the routes, joined here.

    ACCESS: Access = {"GET /v1/models": "use", "POST /v1/completions": "use"}

A route that is declared nowhere answers administrators alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from starlette.routing import compile_path

from codetune.registry.access import Action

# An action of codetune.registry.access, or: "public", without a login; "login", any login;
# "account", one's own account, with any role, but not with a token that changes nothing.
Level = Action | Literal["public", "login", "account"]
Access = Mapping[str, Level]  # "METHOD /path/{template}" → what it takes


class Permissions:
    """The levels of all routes, found by a request's method and path."""

    def __init__(self, tables: Iterable[Access]) -> None:
        self.levels: dict[str, Level] = {}
        for table in tables:
            for route, level in table.items():
                if self.levels.setdefault(route, level) != level:
                    raise ValueError(f"{route} is declared twice, as different things")
        self._plain = {_normal(r): r for r in self.levels if "{" not in r}
        templates = [r.split(" ", 1) for r in self.levels if "{" in r]
        # A template with fewer parameters says more: /models/info before /models/{name}.
        templates.sort(key=lambda split: (split[1].count("{"), ":path" in split[1], -len(split[1])))
        self._templates = [
            (method, compile_path(path.rstrip("/") or "/")[0], f"{method} {path}")
            for method, path in templates
        ]

    def of(self, method: str, path: str) -> Level | None:
        """The level of a request; None if no route is declared for it."""
        route = self.route(method, path)
        return None if route is None else self.levels[route]

    def route(self, method: str, path: str) -> str | None:
        """The declared "METHOD /path/{template}" that a request is for."""
        method = "GET" if method == "HEAD" else method
        path = path.rstrip("/") or "/"
        if (route := self._plain.get(f"{method} {path}")) is not None:
            return route
        for its_method, pattern, route in self._templates:
            if its_method == method and pattern.match(path):
                return route
        return None


def _normal(route: str) -> str:
    """/token and /token/ are one route: the router sends from one to the other."""
    method, path = route.split(" ", 1)
    return f"{method} {path.rstrip('/') or '/'}"
