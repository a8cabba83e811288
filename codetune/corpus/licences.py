"""Which licence a file is under: its own SPDX tag, else the nearest LICENSE file above it.

Licence texts are recognised by phrases that only they contain; what is not recognised is
"unknown", never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

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
_BLANKS = re.compile(r"[\s*#/;>-]+")

# SPDX name → phrases that must all be there (lower case, blanks collapsed). First match wins, so
# the texts that quote others come first.
_TEXTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0-only", ("gnu affero general public license", "version 3")),
    ("LGPL-3.0-only", ("gnu lesser general public license", "version 3")),
    ("LGPL-2.1-only", ("gnu lesser general public license", "version 2.1")),
    ("LGPL-2.0-only", ("gnu library general public license", "version 2")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("GPL-3.0-only", ("gnu general public license", "version 3")),
    ("GPL-2.0-only", ("gnu general public license", "version 2")),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("PSF-2.0", ("python software foundation license",)),
    ("BSL-1.0", ("boost software license", "version 1.0")),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("WTFPL", ("do what the fuck you want to public license",)),
    (
        "Zlib",
        (
            "this software is provided 'as is', without any express or implied warranty",
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
            "permission to use, copy, modify, and/or distribute this software for any purpose "
            "with or without fee is hereby granted. the software is provided",
        ),
    ),
    (
        "ISC",
        (
            "permission to use, copy, modify, and",
            "distribute this software for any purpose",
            "with or without fee is hereby granted",
            "copyright notice and this permission",
        ),
    ),
    (
        "MIT",
        (
            "permission is hereby granted, free of charge, to any person obtaining a copy",
            "the above copyright notice and this permission notice",
        ),
    ),
    ("MIT-0", ("permission is hereby granted, free of charge, to any person obtaining a copy",)),
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
    flat = _BLANKS.sub(" ", text[:60_000].lower()).replace("“", '"').replace("”", '"')
    flat = flat.replace("''as is''", "'as is'").replace('"as is"', "'as is'")
    for name, phrases in _TEXTS:
        if all(phrase in flat for phrase in phrases):
            return name
    return UNKNOWN


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
        for path, text in files:
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
