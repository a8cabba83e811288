"""What the commands of single stages print."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from codetune.cli.main import cli
from codetune.cli.stages import _show


def test_counts_of_nothing_are_said_to_be_0(capsys: Any) -> None:
    _show({"kept": 3, "secrets": {}, "dropped": {"vendored": 1}})
    assert capsys.readouterr().out.split() == [
        "kept",
        "3",
        "secrets",
        "0",
        "dropped",
        "vendored",
        "1",
    ]


@pytest.mark.parametrize("group", ["data", "jobs", "nano", "teams", "users"])
def test_every_command_is_told_of_in_one_whole_sentence(group: str) -> None:
    """As `--help` of the group lists them in 80 columns, of which click leaves two free."""
    said = CliRunner().invoke(cli, [group, "--help"], terminal_width=78).output
    listed = said.partition("Commands:")[2]
    assert listed and "..." not in listed
