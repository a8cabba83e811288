""".gitignore files, nested ones too, as git reads them: the deepest file with a say wins."""

from __future__ import annotations

from typing import Any

_SLASH = "ps_d"


class Ignored:
    """What has been learned from the .gitignore files met so far, top down."""

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}

    def learn(self, folder: str, lines: str) -> None:
        """Add the .gitignore of `folder` ("" is the root, otherwise "a/b/")."""
        from pathspec import GitIgnoreSpec

        usable = [line for line in lines.splitlines() if is_pattern(line)]
        self._specs[folder] = GitIgnoreSpec.from_lines(usable)

    def __contains__(self, path: str) -> bool:
        """Whether `path` (a folder ends with "/") or a folder above it is ignored."""
        if not self._specs:
            return False
        parts = path.rstrip("/").split("/")
        folders = ["/".join(parts[:depth]) + "/" for depth in range(1, len(parts))]
        return any(self._names(item) for item in [*folders, path])

    def _names(self, path: str) -> bool:
        parts = path.rstrip("/").split("/")
        for depth in range(len(parts) - 1, -1, -1):
            folder = "".join(f"{part}/" for part in parts[:depth])
            spec = self._specs.get(folder)
            if spec is not None:
                verdict = spec.check_file(path[len(folder) :]).include
                if verdict is False:  # perhaps for a folder above it, which is no matter here
                    verdict = _last_of_its_own(spec, path[len(folder) :])
                if verdict is not None:
                    return bool(verdict)
        return False


def _last_of_its_own(spec: Any, path: str) -> bool | None:
    """What the last pattern says that matches `path` itself; None where there is none.

    pathspec lets a pattern match all that lies below what it names, too. For git "!a" takes
    nothing back of what another pattern ignores within a.
    """
    for pattern in reversed(spec.patterns):
        found = pattern.regex.match(path) if pattern.include is not None else None
        # The group is the slash behind a folder that the pattern names.
        if found and found.groupdict().get(_SLASH) is None:
            return bool(pattern.include)
        if found and found.end(_SLASH) == len(path):
            return bool(pattern.include)
    return None


def is_pattern(line: str) -> bool:
    """Whether git reads the line; some, such as a lone "!", it passes over."""
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
