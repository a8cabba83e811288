"""nano as an F16 GGUF file, so that llama.cpp runs the same weights beside us."""

from __future__ import annotations

from pathlib import Path

from codetune.artifacts import home
from codetune.export.gguf_file import write_gguf as write
from codetune.export.merge import load_tuned
from codetune.export.source import Source
from codetune.models.load import resolve_base
from codetune.progress import Progress
from codetune.registry.cards import Registry


def write_gguf(folder: Path, target: Path) -> None:
    """Write the model in `folder` to `target` as `codetune export` does, compared with nothing."""
    base = resolve_base(str(folder))
    source = Source(Registry(home()).get("nano"), base.path, base)
    write(load_tuned(source), source, "f16", target, Progress())
