"""Licences by text, by tag and by place."""

from __future__ import annotations

from importlib import metadata

import pytest

from codetune.corpus.licences import (
    Licences,
    is_allowed,
    is_licence_file,
    licence_of_text,
    spdx_tag,
)

MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy … copyright notice"
APACHE = "                              Apache License\n                        Version 2.0, January 2004\n"
GPL = "GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n"


@pytest.mark.parametrize(
    "package, licence",
    [
        ("pytest", "MIT"),
        ("click", "BSD-3-Clause"),
        ("transformers", "Apache-2.0"),
        ("jinja2", "BSD-3-Clause"),
        ("tqdm", "MPL-2.0"),
        ("typing_extensions", "PSF-2.0"),
        ("pygments", "BSD-2-Clause"),
    ],
)
def test_licence_files_of_installed_packages(package, licence):
    """Real texts, with everything that people put around them."""
    files = metadata.files(package) or []
    texts = [file.read_text() for file in files if is_licence_file(file.name)]
    assert licence in {licence_of_text(text) for text in texts}


@pytest.mark.parametrize(
    "text, licence",
    [
        (APACHE, "Apache-2.0"),
        (GPL, "GPL-3.0-only"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\nVersion 3\n" + GPL, "LGPL-3.0-only"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE\nVersion 3\n… " + GPL, "AGPL-3.0-only"),
        (MIT + "\nParts are under the\n" + APACHE, "MIT"),
        ("All rights reserved.", "unknown"),
        ("", "unknown"),
    ],
)
def test_texts(text, licence):
    assert licence_of_text(text) == licence


@pytest.mark.parametrize(
    "name, yes",
    [
        ("LICENSE", True), ("LICENCE.txt", True), ("a/COPYING", True), ("UNLICENSE", True),
        ("LICENSE-MIT", True), ("MIT-LICENSE.txt", True), ("COPYING.LESSER", True),
        ("license.py", False), ("LICENSE.json", False), ("licenses.go", False), ("README", False),
    ],
)  # fmt: skip
def test_names_of_licence_files(name, yes):
    assert is_licence_file(name) is yes


def test_tags_are_read_from_any_comment():
    assert spdx_tag("// SPDX-License-Identifier: Apache-2.0 OR MIT\n") == "Apache-2.0 OR MIT"
    assert spdx_tag("/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */") == (
        "GPL-2.0 WITH Linux-syscall-note"
    )
    assert spdx_tag("x = 1\n") == ""


def test_the_nearest_licence_file_counts():
    licences = Licences([("LICENSE", MIT), ("lib/x/LICENSE", APACHE), ("LICENSE-APACHE", APACHE)])
    assert licences.of("a/b.py", "") == "Apache-2.0 OR MIT"
    assert licences.of("lib/x/deep/b.py", "") == "Apache-2.0"
    assert licences.of("lib/y.py", "# SPDX-License-Identifier: ISC") == "ISC"
    assert Licences([]).of("a.py", "") == "unknown"


def test_foreign_folders_need_a_licence_of_their_own():
    licences = Licences([("LICENSE", MIT), ("external/gtest/LICENSE", APACHE)])
    assert licences.is_foreign("external/gtest/src/a.cc")
    assert not licences.is_foreign("external/ours/a.cc")
    assert not licences.is_foreign("src/a.cc")


@pytest.mark.parametrize(
    "expression, allowed, yes",
    [
        ("MIT", ("MIT",), True),
        ("MIT OR GPL-3.0-only", ("MIT",), True),
        ("MIT AND GPL-3.0-only", ("MIT",), False),
        ("MIT AND Apache-2.0", ("MIT", "Apache-2.0"), True),
        ("GPL-2.0-or-later", ("GPL-2.0",), True),
        ("LGPL-2.1-only", ("GPL-2.1",), False),
        ("unknown", ("MIT",), False),
    ],
)
def test_allowed_expressions(expression, allowed, yes):
    assert is_allowed(expression, allowed) is yes
