"""docs/operations.md: what it shows can be used as it stands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click import Command, Context, Group

from codetune.cli.main import cli
from codetune.jobs.config import JobOptions
from codetune.project import ProjectConfig

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
UNITS = [block for _, block in BLOCKS if block.startswith("[Unit]")]


def test_its_options_exist() -> None:
    blocks = [yaml.safe_load(block) for language, block in BLOCKS if language == "yaml"]
    found = [values for values in blocks if not {"scrape_configs", "groups"} & values.keys()]
    assert len(found) == 2, "the others are Prometheus' own"
    for values in found:
        if "serving" in values:
            ProjectConfig.load(values, "operations.md")
        else:
            JobOptions.load(values, "operations.md")


def calls() -> list[list[str]]:
    """Every call of codetune in it, in blocks and in sentences."""
    found = re.findall(r"(?:^|[ `/])codetune ((?:[a-z]+|--)[^`\n#']*)", TEXT, re.MULTILINE)
    known = cli.list_commands(Context(cli))
    return [shlex.split(call) for call in found if call.split()[0] in known]


def test_its_commands_and_their_options_exist() -> None:
    assert len(calls()) > 12
    for words in calls():
        command: Command = cli
        while isinstance(command, Group):
            found = command.get_command(Context(command), words[0]) if words else None
            if found is None:
                break
            command, words = found, words[1:]
        known = {name for one in command.params for name in one.opts}
        assert {word for word in words if word.startswith("--")} <= known, words
        assert not words or not isinstance(command, Group), words


def test_every_service_has_the_same_home_and_database() -> None:
    """A backup that does not know of PostgreSQL would be one of an empty database."""
    services = [unit for unit in UNITS if "[Service]" in unit]
    settings = [
        [line for line in unit.splitlines() if line.startswith("Environment")] for unit in services
    ]
    assert len(settings) == 2 and settings[0] == settings[1]
    assert any(line.startswith("EnvironmentFile=-") for line in settings[0])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_its_units_are_units(tmp_path: Path) -> None:
    program = tmp_path / "codetune"
    program.touch(0o755)
    assert len(UNITS) == 3
    names = ("codetune.service", "codetune-backup.service", "codetune-backup.timer")
    for name, unit in zip(names, UNITS, strict=True):
        text = unit.replace("/opt/codetune/bin/codetune", str(program))
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in names]
    done = subprocess.run(
        ["systemd-analyze", "verify", *files], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
