""".gitignore files, nested ones too, as git reads them: the deepest file with a say wins."""

from __future__ import annotations

from typing import Any


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
                if verdict is not None:
                    return bool(verdict)
        return False


def is_pattern(line: str) -> bool:
    """Whether git reads the line; some, such as a lone "!", it passes over."""
    from pathspec import GitIgnoreSpec

    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
