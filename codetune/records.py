"""The frozen records that cross the borders between stations, and their Parquet schemas.

Stations speak through these and through artifacts, never through each other's code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Repository:
    """Where files came from. `name` is host/owner/name for a remote, a folder's name otherwise."""

    name: str
    location: str  # as the user wrote it, without credentials
    kind: str  # "git" | "folder" | "archive"
    commit: str | None = None  # the newest commit read ("present")
    cutoff: str | None = None  # the last commit of the past, or None without history


@dataclass(frozen=True)
class SourceFile:
    """One version of one file, as collected.

    A file that did not change since the cut-off is one record with `in_past` and `in_present`;
    a changed one is two. Without history every file is both. `previous_path` is the path of
    the past version of a file of the present (equal to `path` unless it was renamed), or None
    for a file that is new.
    """

    repo: str
    path: str
    content: bytes
    digest: str  # SHA-256 of content, hexadecimal
    in_past: bool
    in_present: bool
    previous_path: str | None = None


@dataclass(frozen=True)
class Document:
    """A cleaned text with its provenance; flags as in SourceFile."""

    id: str  # digest of repo, path and text: stable across runs
    repo: str
    path: str
    language: str  # syntax.languages name, or "text"
    licence: str  # SPDX expression or "unknown"
    text: str
    in_past: bool
    in_present: bool
    previous_path: str | None = None
    redactions: int = 0  # secrets replaced
    signature: bytes | None = None  # MinHash of the text, as `similarity.fingerprint` gives it


@dataclass(frozen=True)
class Fim:
    """A fill-in-the-middle example; prefix + middle + suffix is a region of the file."""

    prefix: str
    middle: str
    suffix: str


@dataclass(frozen=True)
class Provenance:
    """Where an example comes from; `span` is in characters of the document."""

    repo: str
    commit: str | None
    path: str
    span: tuple[int, int]
    licence: str


@dataclass(frozen=True)
class Example:
    """The one canonical training example; exactly one of text, fim, messages is set."""

    id: str
    stream: str  # "ntp" | "fim" | "sft" | "replay" | a set's name
    source: Provenance
    text: str | None = None
    fim: Fim | None = None
    messages: tuple[dict[str, str], ...] | None = None
    weight: float = 1.0
    language: str = "text"
    kind: str = ""  # fim: the span's kind ("body", "line", "random" …)
    ends_file: bool = False  # ntp: an end-of-text token follows


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Score:
    """One side of the scorecard. Bits per byte: lower is better; FIM shares are 0..1.

    None is what could not be measured: fill-in-the-middle on a base without its tokens, or
    general code when the options leave it out.
    """

    bits_per_byte: Interval
    fim_exact_match: Interval | None
    fim_edit_similarity: Interval | None
    general_bits_per_byte: Interval | None
    n: dict[str, int]  # how many documents, bytes, prompts stand behind the figures


@dataclass(frozen=True)
class Scorecard:
    """Base against tuned on the same held-out prompts, and the gate's verdict.

    `change` holds paired differences (tuned - base) with bootstrap intervals. `reference` is
    the adapter on the side "base" where the tuned one was trained on top of it; else empty.
    """

    base: Score
    tuned: Score
    change: dict[str, Interval]
    promoted: bool
    reasons: tuple[str, ...] = ()
    reference: str = ""


@dataclass(frozen=True)
class ModelCard:
    """What the registry knows of one version of one model."""

    id: str  # "name:version", e.g. "myrepo:1"
    name: str
    version: int
    kind: str  # "base" | "adapter" | "full"
    base: str  # name or path of the base model
    base_digest: str  # SHA-256 over the base's weights
    method: str
    created: str  # ISO 8601, UTC
    promoted: bool
    config_digest: str
    data_digest: str
    commits: dict[str, str]  # repository -> commit
    licences: dict[str, int]  # SPDX -> number of files
    metrics: dict[str, Any] = field(default_factory=dict)  # the scorecard
    parents: tuple[str, ...] = ()
    report: str = ""  # path of report.html below the registry's folder
    # Whether its requests run in one batch with those of other adapters of its base. DoRA scales
    # each row of the base's weights, so there is no sum of adapters to add to the base's output.
    shares_batches: bool = True
