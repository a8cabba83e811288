"""Small corpora, written as the cleaning station writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from codetune.artifacts import Artifact
from codetune.dataset.build import build
from codetune.dataset.config import DatasetOptions
from codetune.progress import Progress
from codetune.records import Document, Repository
from codetune.tables import TableWriter
from codetune.workers import Workers
from tests.unit.models.tiny_families import write_base

REPOSITORY = Repository("host/team/shop", "shop", "git", commit="c0ffee", cutoff="beef")
COLUMNS = dict.fromkeys(("id", "repo", "path", "language", "licence", "text"), "string")
COLUMNS |= {"in_past": "bool", "in_present": "bool", "previous_path": "string"}
COLUMNS |= {"redactions": "int64"}
NOUNS = ["basket", "item", "price", "order", "total", "tax", "rate", "user", "shop", "stock"]
VERBS = ["load", "store", "count", "merge", "split", "check", "render", "parse", "send", "fetch"]


def document(
    path: str, text: str, *, past: bool = True, present: bool = True, **more: Any
) -> Document:
    more = {"repo": REPOSITORY.name, "language": "python", "licence": "MIT"} | more
    number = hashlib.sha256(f"{path}\n{text}".encode()).hexdigest()[:32]
    return Document(id=number, path=path, text=text, in_past=past, in_present=present, **more)


def code(seed: object, functions: int = 4) -> str:
    """Functions that no other seed gives."""
    random = Random(str(seed))

    def name() -> str:
        number = random.randrange(10_000)
        return f"{random.choice(VERBS)}_{random.choice(NOUNS)}_{number}"

    parts = ["import json\nimport sys\n\n"]
    for _ in range(functions):
        argument, local = name(), name()
        parts.append(
            f"\ndef {name()}({argument}, {random.choice(NOUNS)}={random.randrange(99)}):\n"
            f'    """{" ".join(random.choices(NOUNS + VERBS, k=9)).capitalize()}."""\n'
            f"    {local} = [{name()}({argument}) for {name()} in {name()}({random.random()})]\n"
            f"    if {local} and {argument}.{name()} > {random.randrange(1000)}:\n"
            f'        return {{"{name()}": {local}, "{name()}": {name()}({local}, {argument})}}\n'
            f"    raise ValueError({name()!r})\n\n"
        )
    return "".join(parts)


def corpus(folder: Path, documents: Sequence[Document]) -> Artifact:
    """An artifact as `clean` would return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with TableWriter(folder / "documents.parquet", COLUMNS) as table:
        for one in documents:
            table.write(asdict(one), 500_000)  # many small row groups
    digest = hashlib.sha256("".join(one.id for one in documents).encode()).hexdigest()
    return Artifact(folder, "corpus", digest, {}, {})


def built(
    folder: Path,
    documents: Sequence[Document],
    *,
    processes: int = 1,
    family: str = "qwen",
    **options: Any,
) -> Artifact:
    """The dataset of these documents alone, for a tiny base with a window of 256 tokens."""
    base = write_base(folder / f"base-{family}", family)
    cleaned = corpus(folder / "corpus", documents)
    made = DatasetOptions.load({"replay_share": 0} | options, "test")
    return build(
        cleaned, REPOSITORY, base, made, folder / "datasets", Progress(), workers=Workers(processes)
    )


def rows(artifact: Artifact, name: str) -> list[dict[str, Any]]:
    from codetune.tables import read_rows

    return list(read_rows(artifact / name))
