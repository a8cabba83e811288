"""Files as `collect` hands them over, and code to fill them with."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class File:
    """One row of files.parquet; by default unchanged since the cut-off."""

    path: str
    content: bytes
    in_past: bool = True
    in_present: bool = True
    previous_path: str | None = None

    def row(self) -> dict[str, Any]:
        both = self.in_past and self.in_present
        return {
            "repo": "host/team/tool",
            "path": self.path,
            "content": self.content,
            "digest": hashlib.sha256(self.content).hexdigest(),
            "in_past": self.in_past,
            "in_present": self.in_present,
            "previous_path": self.path if both else self.previous_path,
        }


def past(path: str, content: bytes | str) -> File:
    return File(path, _bytes(content), in_present=False)


def present(path: str, content: bytes | str, previous_path: str | None = None) -> File:
    return File(path, _bytes(content), in_past=False, previous_path=previous_path)


def both(path: str, content: bytes | str) -> File:
    return File(path, _bytes(content))


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


WORDS = [
    "load",
    "save",
    "parse",
    "render",
    "merge",
    "split",
    "find",
    "open",
    "close",
    "send",
    "count",
    "check",
    "apply",
    "build",
]


def code(seed: int, functions: int = 12) -> str:
    """Python source unlike that of any other seed."""
    chance = random.Random(seed)
    parts = []
    for _ in range(functions):
        name = f"{chance.choice(WORDS)}_{chance.choice(WORDS)}_{chance.randrange(1000)}"
        one, two = chance.sample(WORDS, 2)
        parts.append(
            f"def {name}({one}, {two}={chance.randrange(99)}):\n"
            f'    """{chance.choice(WORDS).title()} the {chance.choice(WORDS)}."""\n'
            f"    if {one} > {chance.randrange(99)}:\n"
            f"        return {two} + {chance.randrange(99)}\n"
            f"    return {chance.choice(WORDS)}({one}, {two})\n"
        )
    return "\n\n".join(parts)
