"""`codetune serve` and `codetune complete` as a user calls them."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from codetune.cli.users import users
from codetune.errors import CodetuneError
from codetune.models.load import BaseModel
from tests.clock import AT_ONCE

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(team_home: tuple[Path, BaseModel]) -> Call:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "codetune", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "CODETUNE_HOME": str(team_home[0])},
        )

    return run


Served = tuple[subprocess.Popen[str], int, Path]


@pytest.fixture
def serve(team_home: tuple[Path, BaseModel], tmp_path: Path) -> Iterator[Served]:
    """A running `codetune serve`, its port, and the file that holds what it prints."""
    home, base = team_home
    with serving(home, tmp_path / "printed", "--base", str(base.path), "-m", "shop") as served:
        yield served


@contextmanager
def serving(home: Path, printed: Path, *options: str) -> Iterator[Served]:
    command = [sys.executable, "-u", "-m", "codetune", "serve", "--port", "0"]
    with printed.open("w") as file:
        process = subprocess.Popen(
            [*command, *options],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "CODETUNE_HOME": str(home)},
        )
    try:
        deadline = time.monotonic() + 60
        while not (port := re.search(r":(\d+)\s", printed.read_text())):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, int(port[1]), printed
    finally:
        process.kill()
        process.communicate()


def test_serve_says_how_to_use_it_and_ctrl_c_ends_it(
    serve: tuple[subprocess.Popen[str], int, Path],
) -> None:
    """Even with an answer under way, which is broken off."""
    process, port, printed = serve
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = {"prompt": "x", "max_tokens": 1000, "n": 32, "temperature": 0, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.status == 200
    assert response.readline().startswith(b"data: {")
    assert process.poll() is None
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    connection.close()
    out = printed.read_text()
    assert time.monotonic() - started < AT_ONCE
    assert process.returncode == 130, err
    # Nothing but the request, which was broken off or could just end.
    assert re.fullmatch(r"\S+Z POST /v1/completions 200 request_id=req-\w{16} .*\n", err), err
    for expected in (
        "shop  → shop:1",
        "tiny  (base)",
        f"curl http://127.0.0.1:{port}/v1/",
        "Stopped.",
    ):
        assert expected in out


def test_sigterm_lets_answers_under_way_end(
    serve: tuple[subprocess.Popen[str], int, Path], team_home: tuple[Path, BaseModel]
) -> None:
    """Who comes afterwards is refused; what runs is finished and counted, then the server ends."""

    def used() -> tuple[int, int]:
        with closing(sqlite3.connect(team_home[0] / "codetune.db")) as database:
            sums = "coalesce(sum(requests), 0), coalesce(sum(completion_tokens), 0)"
            requests, tokens = database.execute(f"SELECT {sums} FROM usage").fetchone()
            return requests, tokens

    process, port, _ = serve
    before = used()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    prompts = ["0", "abc", "hello world", "for i in"]
    body = {"prompt": prompts, "max_tokens": 400, "temperature": 0, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.readline().startswith(b"data: {")
    process.terminate()
    rest = response.read()
    connection.close()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert rest.count(b'"finish_reason":"') == 4  # none was broken off
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    (line,) = err.splitlines()
    (tokens,) = re.findall(r" tokens=(\d+) ", line)
    assert int(tokens) > 40
    assert used() == (before[0] + 1, before[1] + int(tokens))


def test_the_accounts_section_says_how_people_log_in(
    team_home: tuple[Path, BaseModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))
    added = CliRunner().invoke(users, ["add", "ada"], input="a long password\n")
    assert added.exit_code == 0, added.output
    file = tmp_path / "codetune.yaml"
    file.write_text("accounts: {registration: true, registrations_per_address: 1}\n")
    options = ["--base", str(team_home[1].path), "--config", str(file)]

    def registered(port: int, name: str) -> int:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            body = json.dumps({"username": name, "password": "another long password"})
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/register/", body, headers)
            return connection.getresponse().status

    with serving(tmp_path / "home", tmp_path / "printed", *options) as (_, port, _):
        assert [registered(port, name) for name in ("zoe", "yves")] == [201, 429]
    options.append("--no-register")
    with serving(tmp_path / "home", tmp_path / "printed", *options) as (_, port, _):
        assert registered(port, "xaver") == 403


def test_a_port_in_use_ends_with_2(call: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = call("serve", "--port", str(port))
    assert result.returncode == 2
    assert f"Port {port} is in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_complete_fills_in_a_place_and_leaves_the_file(
    call: Call, team_home: tuple[Path, BaseModel], tmp_path: Path
) -> None:
    file = tmp_path / "shop.py"
    text = "def sell(item):\n    \n    return item\n"
    file.write_text(text)
    base = str(team_home[1].path)
    shown = call("complete", str(file), "--line", "2", "--base", base, "--max-tokens", "6")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("def sell(item):\n    ")
    assert shown.stdout.endswith("\n    return item\n\n")
    assert re.search("^(shop|team/whole):1", shown.stderr, re.M), "a promoted model is the default"
    result = call(
        "complete", str(file), "-n", "2", "-c", "5", "-m", "tiny", "--base", base, "--json"
    )
    answer = json.loads(result.stdout)
    assert (answer["model"], answer["line"], answer["column"]) == ("tiny", 2, 5)
    assert answer["prompt_tokens"] > len(text)
    assert file.read_text() == text


def test_compare_shows_models_side_by_side(
    call: Call, team_home: tuple[Path, BaseModel], tmp_path: Path
) -> None:
    """One that does not exist is said in its place; with all of them the command fails."""
    config = tmp_path / "codetune.yaml"
    config.write_text(f"serving:\n  base: {team_home[1].path}\n")
    file = tmp_path / "shop.py"
    file.write_text("def sell(item):\n    \n    return item\n")
    common = ("--max-tokens", "6", "--config", str(config))
    result = call(
        "compare", str(file), "-n", "2", "--models", "tiny,shop:2,none", *common, "--json"
    )
    assert result.returncode == 0, result.stderr
    tiny, shop, none = json.loads(result.stdout)["answers"]
    assert (tiny["model"], shop["model"], none["model"]) == ("tiny", "shop:2", "none")
    assert tiny["text"] != shop["text"]
    assert tiny["completion_tokens"] == shop["completion_tokens"] == 6
    assert 0 < tiny["first_token_seconds"] <= tiny["seconds"]
    assert "no model 'none'" in none["error"]
    shown = call("compare", "def f(", "--models", "tiny,shop", *common)
    assert shown.returncode == 0, shown.stderr
    assert "shop → shop:1" in shown.stdout
    assert call("compare", "x", "--models", "none", *common).returncode == 2
    wrong = call("compare", "x", "-n", "3", "--models", "tiny", *common)
    assert (wrong.returncode, "--line is for a place in a file" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py", "-n", "1"], "cannot be read"),
        (["image.bin", "-n", "1"], "not UTF-8"),
        (["short.py", "-n", "9"], "has 2 lines"),
        (["short.py", "-n", "1", "-c", "99"], "line 1 has 5 characters"),
        (["short.py", "-n", "1", "-m", "nobody"], "There is no model 'nobody'"),
    ],
)
def test_complete_says_what_is_wrong(
    arguments: list[str],
    message: str,
    team_home: tuple[Path, BaseModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from codetune.cli.complete import complete

    (tmp_path / "image.bin").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "short.py").write_text("x = 1\n")
    monkeypatch.setenv("CODETUNE_HOME", str(team_home[0]))
    result = CliRunner().invoke(complete, [str(tmp_path / arguments[0]), *arguments[1:]])
    assert isinstance(result.exception, CodetuneError)
    assert message in str(result.exception)


def test_help_needs_no_torch() -> None:
    program = (
        "import sys, codetune.cli.serve, codetune.cli.complete\n"
        "assert not {'torch', 'fastapi', 'transformers', 'pydantic'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
