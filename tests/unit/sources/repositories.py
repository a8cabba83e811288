"""Real git repositories, made in a test's own folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder: Path, *arguments: str, when: str = "2026-01-01T00:00:00Z") -> str:
    """Run git as a developer would; `when` is the date of a commit."""
    environment = _ENVIRONMENT | {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def make_repository(folder: Path, commits: list[dict[str, str | bytes | None]]) -> Path:
    """One commit a dictionary (path → content, None deletes), a day apart from 2026-01-01 on."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    for day, files in enumerate(commits, start=1):
        for path, content in files.items():
            file = folder / path
            if content is None:
                file.unlink()
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "--allow-empty", "-m", f"day {day}", when=_date(day))
    return folder


def _date(day: int) -> str:
    return f"2026-01-{day:02d}T12:00:00Z"
