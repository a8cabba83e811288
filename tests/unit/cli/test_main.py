"""The command line answers at once, names every mistake, and exits with the right code."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from codetune.cli.main import COMMANDS, Commands, cli

NAMES = [name for group in COMMANDS.values() for name in group]


def run(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"CODETUNE_HOME": str(home)} if home else {})}
    return subprocess.run(
        [sys.executable, "-m", "codetune", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )


def test_help_answers_at_once_and_without_heavy_imports() -> None:
    code = (
        "import sys; from codetune.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'pydantic', 'fastapi', 'numpy', 'rich'}\n"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    fastest = min(_seconds([sys.executable, "-c", code]) for _ in range(5))
    assert fastest < 0.3


def _seconds(command: list[str]) -> float:
    """Of processor time: it needs no disk or network, and a busy machine must not count."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


@pytest.mark.parametrize("name", NAMES)
def test_the_listed_line_is_the_commands_own_and_it_has_examples(name: str) -> None:
    command = Commands(name="codetune").get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.help
    every = command.commands.values() if isinstance(command, click.Group) else [command]
    for one in every:
        assert "Examples:" in (one.help or ""), "every command shows how it is used"


def test_an_unknown_command_names_the_nearest() -> None:
    result = run("tnue", ".")
    assert result.returncode == 2
    assert "Did you mean 'tune'?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "nothing-like-it"], "nothing-like-it"),
        (["tune", "/nowhere/at/all"], "/nowhere/at/all"),
        (["build", ".", "--set", "dataset.fim_rat=1"], "Did you mean 'fim_rate'?"),
        (["tune", ".", "--base", "/no/such/model"], "/no/such/model"),
        (["tune", ".", "--config", "/no/such.yaml"], "does not exist"),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    result = run(*arguments, home=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_init_writes_a_file_and_never_over_one(tmp_path: Path) -> None:
    file = tmp_path / "codetune.yaml"
    assert run("init", str(file)).returncode == 0
    before = file.read_text()
    again = run("init", str(file))
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert file.read_text() == before


def test_the_next_stage_is_named_with_all_options(tmp_path: Path) -> None:
    source = tmp_path / "two words"
    source.mkdir()
    (source / "a.py").write_text("def price(item):\n    return item.cost\n")
    done = run("collect", str(source), "--set", "sources.cutoff=2026-01-01", home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    expected = f"codetune clean '{source}' --set sources.cutoff=2026-01-01"
    assert done.stdout.rstrip().endswith(expected)
