"""What is kept of the collected files."""

from __future__ import annotations

from typing import Literal

from codetune.options import Options, option


class CorpusOptions(Options):
    """Options of `clean`."""

    licences: tuple[str, ...] = option(
        (),
        description="Keep only files under these SPDX licences (MIT, Apache-2.0 …); empty: all. "
        "'unknown' is the name for files without a recognised licence.",
    )
    secrets: Literal["redact", "drop"] = option(
        "redact",
        description="A file that holds a key, token or password: replace it by a placeholder, "
        "or drop the whole file.",
    )
    near_duplicates: float = option(
        0.8,
        ge=0.5,
        le=1.0,
        description="Files at least this similar (Jaccard) to a kept one are dropped; 1.0: only "
        "exact duplicates are.",
    )
    prose_alone: bool = option(
        False, description="Go on when no source code is left, only documents and other texts."
    )
    keep_vendored: bool = option(
        False, description="Keep third-party code that was copied into the repository."
    )
    keep_generated: bool = option(False, description="Keep files that a program wrote.")
    longest_line: int = option(
        1000,
        ge=80,
        description="Files with more than a quarter of their text in longer lines (characters) "
        "are dropped as long_lines.",
    )
    largest_data: int = option(
        50_000,
        ge=0,
        description="Larger JSON, YAML, XML, HTML and text files (characters) are dropped as data.",
    )
