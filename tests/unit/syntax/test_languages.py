"""Names of languages."""

from __future__ import annotations

import pytest

from codetune.syntax.languages import IS_CODE, language_of
from codetune.syntax.parse import HAS_GRAMMAR


@pytest.mark.parametrize(
    "path, start, language",
    [
        ("a/b.py", "", "python"), ("x.TSX", "", "tsx"), ("x.d.ts", "", "typescript"),
        ("Makefile", "", "make"), ("docker/Dockerfile.dev", "", "dockerfile"),
        ("x.h", "struct a;", "c"), ("x.h", "namespace a {", "cpp"), ("x.h", "#include <vector>\n", "cpp"),
        ("bin/tool", "#!/usr/bin/env python3\n", "python"), ("run", "#!/bin/sh -e\n", "bash"),
        ("run", "#!/usr/bin/env -S deno run\n", "typescript"), ("run", "hello", "text"),
        ("README.md", "", "markdown"), ("x.unknown", "", "text"), (".gitignore", "", "text"),
        ("py", "", "text"), ("x.json", "", "json"),
    ],
)  # fmt: skip
def test_language_of(path, start, language):
    assert language_of(path, start) == language


def test_markup_and_data_are_no_code():
    assert not IS_CODE & {"markdown", "json", "yaml", "toml", "html", "css", "sql", "text"}
    assert HAS_GRAMMAR <= IS_CODE
