"""Which licence a file is under: its own SPDX tag, else the nearest LICENSE file above it.

A file of the past is judged by the past's LICENSE files, for it is trained on as it was then.

Licence texts are recognised by phrases that only they contain; what is not recognised is
"unknown", never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codetune.corpus.paths import MAYBE_VENDORED

UNKNOWN = "unknown"

_FILE = re.compile(
    r"(?:un)?licen[cs]e(?:[-_.](?P<which>[\w.-]+))?|copying(?:\.lesser|\.lib)?(?:[-_.][\w.-]+)?|"
    r"(?:mit|bsd|apache)[-_.]licen[cs]e(?:[-_.]\w+)?",
    re.IGNORECASE,
)
_CODE_SUFFIX = re.compile(r"\.(?:py|js|ts|go|rs|c|h|cc|cpp|java|rb|php|sh|json|ya?ml|html?|css)$")
_TAG = re.compile(
    r"SPDX-License-Identifier:[ \t]*\(?([A-Za-z0-9.+-]+"
    r"(?:[ \t]+(?:AND|OR|WITH)[ \t]+\(?[A-Za-z0-9.+-]+\)?)*)"
)
_BLANKS = re.compile(r"(?:[\s*#/;>,()]|--+|\s-\s)+")

# SPDX name → phrases that must all be there (lower case, blanks collapsed). The licence whose
# first phrase stands first in the file is the one: others are quoted, or cover parts only.
_TEXTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0-only", ("gnu affero general public license version 3",)),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3",)),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1",)),
    ("LGPL-2.0-only", ("gnu library general public license version 2",)),
    ("GPL-3.0-only", ("gnu general public license version 3",)),
    ("GPL-2.0-only", ("gnu general public license version 2",)),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("Apache-2.0", ("apache license version 2.0",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("BSL-1.0", ("boost software license version 1.0",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-4.0", ("creative commons attribution 4.0",)),
    ("CC-BY-SA-4.0", ("creative commons attribution-sharealike 4.0",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    (
        "Zlib",
        (
            "this software is provided 'as is' without any express or implied warranty",
            "must not be misrepresented",
        ),
    ),
    (
        "BSD-4-Clause",
        (
            "redistribution and use in source and binary forms",
            "all advertising materials mentioning",
        ),
    ),
    (
        "BSD-3-Clause",
        ("redistribution and use in source and binary forms", "endorse or promote products"),
    ),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    (
        "0BSD",
        (
            "permission to use copy modify and or distribute this software for any purpose "
            "with or without fee is hereby granted. the software is provided",
        ),
    ),
    (
        "ISC",
        (
            "permission to use copy modify and",
            "with or without fee is hereby granted provided that",
        ),
    ),
    (
        "MIT",
        (
            "permission is hereby granted free of charge to any person obtaining a copy",
            "copyright notice",
        ),
    ),
    ("MIT-0", ("permission is hereby granted free of charge to any person obtaining a copy",)),
)


def is_licence_file(path: str) -> bool:
    """Whether a path's last part is the usual name of a licence text."""
    name = path.rpartition("/")[2]
    return bool(_FILE.fullmatch(name)) and not _CODE_SUFFIX.search(name.lower())


def licence_of_text(text: str) -> str:
    """The SPDX name of a licence text, or "unknown"."""
    tag = spdx_tag(text)
    if tag:
        return tag
    flat = _flat(text[:60_000])
    found = [
        (flat.index(phrases[0]), order, name)
        for order, (name, phrases) in enumerate(_TEXTS)
        if all(phrase in flat for phrase in phrases)
    ]
    return min(found)[2] if found else UNKNOWN


def _flat(text: str) -> str:
    """Lower case, one blank between words, no decoration: layouts of a text become equal."""
    text = text.lower().replace("licence", "license").replace("as-is", "as is")
    for mark in ('"', "''", "``", "\u201c", "\u201d"):
        text = text.replace(mark, "'")
    return _BLANKS.sub(" ", text)


def spdx_tag(text: str) -> str:
    """The expression of an SPDX tag in a file's first 3,000 characters, or ""."""
    if "SPDX-" not in text[:3000]:
        return ""
    match = _TAG.search(text[:3000])
    return " ".join(match[1].split()) if match else ""


class Licences:
    """The licence files of a tree, asked for the licence of any path in it."""

    def __init__(self, files: Iterable[tuple[str, str]]) -> None:
        """`files`: (path, text) of every licence file."""
        named: dict[str, set[str]] = {}
        self._folders: set[str] = set()
        for path, text in files:
            self._folders.add(path.rpartition("/")[0])
            name = licence_of_text(text)
            if name != UNKNOWN:
                named.setdefault(path.rpartition("/")[0], set()).add(name)
        self._of_folder = {folder: " OR ".join(sorted(names)) for folder, names in named.items()}

    def of(self, path: str, text: str) -> str:
        """The SPDX expression for the file at `path`, or "unknown"."""
        tag = spdx_tag(text)
        if tag:
            return tag
        folder = path
        while folder:
            folder = folder.rpartition("/")[0]
            if folder in self._of_folder:
                return self._of_folder[folder]
        return UNKNOWN

    def is_foreign(self, path: str) -> bool:
        """Whether a licence file below a folder like `external/` says that it is not ours."""
        parts = path.split("/")[:-1]
        at = next((index for index, part in enumerate(parts) if part in MAYBE_VENDORED), None)
        if at is None:
            return False
        below = ("/".join(parts[: depth + 1]) for depth in range(at, len(parts)))
        return any(folder in self._folders for folder in below)


@dataclass(frozen=True)
class LicencesByTime:
    """The licence files of the tree at the cut-off, and those of the present tree."""

    past: Licences
    present: Licences

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[str, str, bool, bool]]) -> LicencesByTime:
        """`rows`: path, text, and whether it is in the past and in the present."""
        return cls(
            Licences((path, text) for path, text, in_past, _ in rows if in_past),
            Licences((path, text) for path, text, _, in_present in rows if in_present),
        )

    def at(self, row: Mapping[str, Any]) -> Licences:
        """Those that hold for a row of files.parquet: what was there at the cut-off is past."""
        return self.past if row["in_past"] else self.present


def is_allowed(expression: str, allowed: Iterable[str]) -> bool:
    """Whether an SPDX expression can be met with the allowed licences alone.

    "A OR B" needs one of them, "A AND B" both; an exception ("WITH") only adds permissions.
    """
    names = {_plain(name) for name in allowed}
    return any(
        all(_plain(part) in names for part in re.split(r"\s+AND\s+", choice))
        for choice in re.split(r"\s+OR\s+", expression)
    )


def _plain(name: str) -> str:
    """A name for comparison: GPL-2.0, GPL-2.0-only and GPL-2.0-or-later are one family."""
    name = name.split(" WITH ", maxsplit=1)[0].strip(" ()").lower()
    return re.sub(r"(?:-only|-or-later|\+)$", "", name)
