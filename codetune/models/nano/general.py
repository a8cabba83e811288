"""The general set: held-out files that measure forgetting, and training files for replay.

Both ship with nano as JSON lines (gzip), with the licence texts of their packages in NOTICE.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codetune.models.nano.packages import Package

# Bytes per language of the evaluation set; replay follows the training mixture.
EVALUATION_BYTES = {
    "python": 175_000,
    "c": 40_000,
    "javascript": 30_000,
    "markdown": 22_000,
    "rst": 12_000,
    "html": 6_000,
}
REPLAY_BYTES = 4_600_000
REPLAY_PACKAGES = 45
_LONGEST_LICENCE = 13_000

EVALUATION_FILE = "evaluation.jsonl.gz"
REPLAY_FILE = "replay.jsonl.gz"
FOLDER = Path(__file__).parent / "general"
# Of the replay set, never trained on: whole packages, for code of a replayed one is forgotten last.
_APART = 0.1


def read_general(path: Path) -> Iterator[dict[str, str]]:
    """Records {repo, path, language, text} of one of the two files."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def replay_digest() -> str:
    """SHA-256 (hexadecimal) of the replay set."""
    return hashlib.sha256((FOLDER / REPLAY_FILE).read_bytes()).hexdigest()


def replay_rows(limit: int | None = None) -> list[dict[str, str]]:
    """The replay set's files that training may see, or about `limit` bytes of them."""
    rows, _ = _divided()
    return rows if limit is None else _some(rows, limit)


def kept_apart(limit: int) -> list[dict[str, str]]:
    """About `limit` bytes of the files that training never sees: they measure what it forgets.

    They are of packages that are not replayed. The languages have the shares that they have in
    the evaluation set, as far as there is enough.
    """
    whole = sum(EVALUATION_BYTES.values())
    room = {language: limit * size / whole for language, size in EVALUATION_BYTES.items()}
    chosen = []
    for row in sorted(_divided()[1], key=_lot):
        if room.get(row["language"], 0) > 0:
            chosen.append(row)
            room[row["language"]] -= len(row["text"].encode())
    return chosen


def _divided() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The replay set's files that training may see, and those of the packages kept apart."""
    rows = list(read_general(FOLDER / REPLAY_FILE))
    room = _APART * sum(len(row["text"]) for row in rows)
    apart = set()
    for repo in sorted({row["repo"] for row in rows}, key=_digest):
        if room <= 0:
            break
        apart.add(repo)
        room -= sum(len(row["text"]) for row in rows if row["repo"] == repo)
    return (
        [row for row in rows if row["repo"] not in apart],
        [row for row in rows if row["repo"] in apart],
    )


def _some(rows: list[dict[str, str]], limit: int) -> list[dict[str, str]]:
    """Whole files of about `limit` bytes, always the same."""
    chosen: list[dict[str, str]] = []
    for row in sorted(rows, key=_lot):
        if limit <= 0:
            break
        chosen.append(row)
        limit -= len(row["text"].encode())
    return chosen


def _lot(row: dict[str, str]) -> bytes:
    return _digest(f"{row['repo']}\n{row['path']}")


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def write_general(
    documents: Path, held_out: Path, packages: list[Package], out: Path, seed: int
) -> dict[str, int]:
    """Choose both sets and write them with their NOTICE; gives the bytes of each."""
    from codetune.models.nano.mixture import SHARES

    out.mkdir(parents=True, exist_ok=True)
    dice = random.Random(seed)
    licences = {package.name: _licence_text(package) for package in packages}
    folders = {package.name: package.folder for package in packages}
    evaluation = _choose(_rows(held_out, folders, longest=16_000), EVALUATION_BYTES, dice)
    # A package whose licence file also lists those of everything it bundles would fill NOTICE.
    short = [name for name, text in licences.items() if 0 < len(text) <= _LONGEST_LICENCE]
    chosen = set(dice.sample(sorted(short), min(REPLAY_PACKAGES, len(short)))) | {"cpython"}
    budget = {language: int(share * REPLAY_BYTES) for language, share in SHARES.items()}
    replay_folders = {name: folders[name] for name in sorted(chosen & set(folders))}
    replay = _choose(_rows(documents, replay_folders, longest=14_000), budget, dice)
    sizes = {
        "evaluation": _write(out / EVALUATION_FILE, evaluation),
        "replay": _write(out / REPLAY_FILE, replay),
    }
    used = {row["repo"] for row in evaluation + replay}
    _write_notice(out / "NOTICE", [p for p in packages if p.name in used], licences)
    return sizes


def _rows(parquet: Path, folders: dict[str, Path], *, longest: int) -> list[dict[str, str]]:
    """Whole files of these packages, with the licence headers that training leaves out."""
    import pyarrow.parquet as pq

    rows = []
    for row in pq.read_table(parquet).to_pylist():
        if row["repo"] not in folders or row["path"] == "README.md":
            continue
        if row["stripped"]:
            original = (folders[row["repo"]] / row["path"]).read_bytes().decode("utf-8")
            row["text"] = original.replace("\r\n", "\n")
        if 400 <= len(row["text"]) <= longest:
            rows.append({name: row[name] for name in ("repo", "path", "language", "text")})
    return rows


def _choose(
    rows: list[dict[str, str]], budget: dict[str, int], dice: random.Random
) -> list[dict[str, str]]:
    """Files by language up to its bytes, the packages in turn so that none dominates."""
    chosen = []
    for language, most in budget.items():
        by_package: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if row["language"] == language:
                by_package.setdefault(row["repo"], []).append(row)
        queues = [dice.sample(members, len(members)) for _, members in sorted(by_package.items())]
        taken = 0
        while queues and taken < most:
            for queue in list(queues):
                row = queue.pop()
                if not queue:
                    queues.remove(queue)
                if taken < most:
                    chosen.append(row)
                    taken += len(row["text"].encode())
    dice.shuffle(chosen)
    return chosen


def _write(path: Path, rows: list[dict[str, str]]) -> int:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # No time stamp and no file name in the gzip header: the same rows give the same bytes.
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as stream:
        stream.write(lines.encode())
    return sum(len(row["text"].encode()) for row in rows)


def _licence_text(package: Package) -> str:
    from codetune.models.nano.packages import licence_files

    texts = [path.read_text(errors="replace").strip() for path in licence_files(package.folder)]
    if package.name == "cpython" and not texts:
        texts = [_python_licence(package.folder)]
    return "\n\n".join(text for text in texts if text)


def _python_licence(stdlib: Path) -> str:
    path = stdlib / "LICENSE.txt"
    if path.exists():
        return path.read_text(errors="replace")
    # The interpreter carries its own notice.
    return f"{sys_copyright()}\nPython Software Foundation License Version 2, https://docs.python.org/3/license.html"


def sys_copyright() -> str:
    import sys

    return sys.copyright


def _write_notice(path: Path, packages: list[Package], licences: dict[str, str]) -> None:
    """One section per licence text; packages with the same text share it."""
    groups: dict[str, list[Package]] = {}
    for package in packages:
        key = "".join(licences[package.name].split())
        groups.setdefault(key, []).append(package)
    sections = [
        "The files in evaluation.jsonl.gz and replay.jsonl.gz are unchanged files of the packages\n"
        "below, each under its own licence, whose text follows it.\n"
    ]
    for members in sorted(groups.values(), key=lambda members: members[0].name):
        names = "\n".join(f"{p.name} {p.version} ({p.licence})" for p in members)
        text = licences[members[0].name]
        sections.append(f"{'=' * 78}\n{names}\n{'-' * 78}\n{text}\n")
    path.write_text("\n".join(sections), encoding="utf-8")
