"""Only permissively licensed packages, and only their own, readable files."""

import pytest

from codetune.errors import SourceError
from codetune.models.nano.documents import LineIndex, reject, without_licence_header
from codetune.models.nano.packages import Pin, admitted, licence_of, read_pins
from codetune.models.nano.story import default_packages


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT\n", "MIT"),
        ("License-Expression: MIT OR GPL-3.0-only\n", "MIT OR GPL-3.0-only"),
        ("License-Expression: MIT AND GPL-3.0-only\n", None),
        ("License-Expression: MPL-2.0 AND MIT\n", None),
        ("License-Expression: LGPL-3.0-or-later\n", None),
        ("License: BSD\n", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: Apache Software License\n", "Apache-2.0"),
        (
            "License: MIT\nClassifier: License :: OSI Approved :: "
            "GNU General Public License v3 (GPLv3)\n",
            None,
        ),
        ("License: UNKNOWN\n", None),
        ("Name: nothing-stated\n", None),
    ],
)
def test_licence_from_metadata(metadata, licence):
    assert licence_of(metadata) == licence


def test_a_package_that_states_nothing_is_judged_by_its_licence_file():
    assert licence_of("", "Permission is hereby granted, free of charge, to any person") == "MIT"
    assert licence_of("", "GNU GENERAL PUBLIC LICENSE\nVersion 3") is None


def test_a_gpl_package_is_refused(tmp_path):
    info = tmp_path / "viral-1.0" / "viral-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: viral\nVersion: 1.0\nLicense: GPL-3.0\n\n")
    with pytest.raises(SourceError, match=r"viral 1\.0 is not under a licence"):
        admitted([Pin("viral", "1.0")], tmp_path)


def test_the_shipped_list_is_pinned_and_free_of_evaluation_repositories():
    pins = read_pins(default_packages().read_text())
    assert len(pins) > 100
    assert all(pin.version for pin in pins)
    names = {pin.name for pin in pins}
    assert not names & {"codetune", "datasette", "sqlite-utils", "llm", "mypy", "netbox"}
    assert 5 <= sum(pin.held_out for pin in pins) <= 12


@pytest.mark.parametrize("line", ["flask", "flask>=3", "flask==3 heldout"])
def test_a_bad_line_is_named(line):
    with pytest.raises(SourceError, match="line 2"):
        read_pins(f"# packages\n{line}\n")


CODE = "def add(first, second):\n    return first + second\n" * 10


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("a/b.py", CODE, None),
        ("pip/_vendor/x.py", CODE, "vendored"),
        ("js/app.min.js", CODE, "vendored"),
        ("a/b.py", "# SPDX: GPL-2.0\n# GNU General Public License\n" + CODE, "another licence"),
        ("a/b_types.py", "# DO NOT EDIT: written by protoc\n" + CODE, "generated"),
        ("a/b.js", "x" * 1500 + "\n" + CODE, "long lines"),
        ("a/b.py", "1, 2, 3, 4, 5, 6, 7, 8\n" * 100, "data"),
        ("a/b.py", "x = 1\n", "too short"),
    ],
)
def test_each_rejection_has_its_reason(path, text, reason):
    given = reject(path, text, "python")
    assert given is None if reason is None else reason in str(given)


def test_a_licence_header_is_cut_and_an_ordinary_comment_is_not():
    assert without_licence_header("# Copyright X\n# MIT License\n\nx = 1\n", "python") == (
        "x = 1\n",
        True,
    )
    assert without_licence_header("# About adding.\nx = 1\n", "python")[1] is False
    assert without_licence_header("/* Licensed under BSD */\nint x;\n", "c") == ("int x;\n", True)


def test_near_duplicates_are_found():
    index = LineIndex()
    lines = [f"value_{number} = compute_something({number}, 'text')" for number in range(40)]
    assert not index.is_duplicate("\n".join(lines))
    assert index.is_duplicate("\n".join(["# another header line for this copy", *lines]))
    assert not index.is_duplicate("\n".join(line.replace("value", "other") for line in lines))
