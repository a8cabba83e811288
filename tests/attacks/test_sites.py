"""Addresses that would have the server read its own network for somebody else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from codetune.errors import SourceError, UnsafeSourceError
from codetune.jobs.config import JobOptions
from codetune.jobs.limits import settled_source
from codetune.jobs.reports import Reporter
from codetune.jobs.work import Work, do
from codetune.progress import Progress
from codetune.registry.access import LOCAL, Actor
from codetune.sources import clone, sites
from codetune.sources.clone import fetch
from codetune.sources.collect import collect
from codetune.sources.config import SourceOptions
from codetune.sources.identity import parse_address
from codetune.sources.sites import check_name, is_public, public_addresses
from tests.unit.sources.git_server import serving
from tests.unit.sources.repositories import git, make_repository

ADA = Actor("ada", "ada", "member")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODETUNE_HOME", str(tmp_path / "home"))


def known(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name stands for these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)
def test_no_address_of_a_network_is_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["140.82.121.4", "2606:50c0:8000::153", "64:ff9b::8c52:7904"])
def test_addresses_of_the_internet_are(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "source",
    [
        "http://127.0.0.1/team/tool",
        "https://localhost:8443/team/tool",
        "https://LOCALHOST/team/tool",
        "http://git.localhost/team/tool",
        "http://127.1/team/tool",
        "http://2130706433/team/tool",
        "http://0x7f000001/team/tool",
        "http://[::1]/team/tool",
        "http://[::ffff:169.254.169.254]/latest/meta-data",
        "http://169.254.169.254/latest/meta-data",
        "ssh://git@10.0.0.1/team/tool",
        "git@192.168.0.7:team/tool.git",
        "git://10.0.0.1/team/tool",
    ],
)
def test_a_member_cannot_name_what_only_the_server_reaches(source: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeSourceError, match="not in the public internet"):
        settled_source(ADA, source, JobOptions())
    with pytest.raises(UnsafeSourceError, match="not in the public internet"):
        collect(source, SourceOptions(), tmp_path / "out", Progress(), sites=())
    assert settled_source(LOCAL, source, JobOptions()) == source  # it is their own machine


def test_what_the_administrator_names_may_be_read() -> None:
    options = JobOptions(sites=("git.company.lan", "10.0.0.1"))
    for source in ("https://Git.Company.lan/team/tool", "ssh://git@10.0.0.1/team/tool"):
        assert settled_source(ADA, source, options) == source
    assert public_addresses("git.company.lan", options.sites) == []
    with pytest.raises(UnsafeSourceError):
        check_name("10.0.0.2", options.sites)


def test_all_addresses_of_a_name_have_to_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, "140.82.121.4", "140.82.121.3")
    assert public_addresses("git.example.org", ()) == ["140.82.121.4", "140.82.121.3"]
    known(monkeypatch, "140.82.121.4", "10.0.0.1")
    with pytest.raises(UnsafeSourceError, match=r"git\.example\.org is not in"):
        public_addresses("git.example.org", ())
    known(monkeypatch, "fe80::1%eth0")
    with pytest.raises(UnsafeSourceError):
        public_addresses("git.example.org", ())


def test_a_name_that_nobody_knows_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(SourceError, match="cannot be reached"):
        public_addresses("git.example.org", ())


def test_git_goes_to_the_address_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git itself could not resolve the name: nothing but what was found for it leads there."""
    work = make_repository(tmp_path / "work", [{"a.py": "a = 1\n"}])
    (tmp_path / "served" / "team").mkdir(parents=True)
    git(work, "clone", "-q", "--bare", str(work), str(tmp_path / "served" / "team" / "tool.git"))
    known(monkeypatch, "127.0.0.1")
    monkeypatch.setattr(sites, "is_public", lambda ip: str(ip) == "127.0.0.1")
    with serving(tmp_path / "served") as host:
        port = host.rpartition(":")[2]
        address = parse_address(f"http://git.example.invalid:{port}/team/tool.git")
        copy = fetch(address, Progress(), timeout=60, sites=())
    assert copy.run("show", "refs/heads/main:a.py").strip() == "a = 1"


def test_ssh_goes_to_the_address_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, told = tmp_path / "programs", tmp_path / "told"
    programs.mkdir()
    (programs / "ssh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {told}\nexit 1\n')
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    known(monkeypatch, "2606:50c0:8000::153", "140.82.121.4")
    with pytest.raises(SourceError):
        fetch(parse_address("ssh://git@git.example.org:2222/t/r"), Progress(), timeout=60, sites=())
    said = told.read_text().splitlines()
    assert {"-oHostName=140.82.121.4", "-oHostKeyAlias=[git.example.org]:2222"} <= set(said)


def test_git_addresses_cannot_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, "140.82.121.4")
    with pytest.raises(UnsafeSourceError, match="git:// addresses"):
        fetch(parse_address("git://git.example.org/t/r"), Progress(), timeout=60, sites=())


def test_an_old_git_is_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, "140.82.121.4")
    monkeypatch.setattr(clone, "git_version", lambda: (2, 34))
    with pytest.raises(SourceError, match=r"takes git 2\.37"):
        fetch(parse_address("https://git.example.org/t/r"), Progress(), timeout=60, sites=())


def test_an_address_needs_no_binding() -> None:
    assert public_addresses("2606:50c0:8000::153", ()) == []
    assert public_addresses("140.82.121.4", ()) == []


@pytest.mark.parametrize(
    "source",
    [
        "ssh://[v1.a:$(touch${IFS}pwned).example.org]/t",
        "https://[v1.a:b]/t",
        "https://[fe80::1%25eth0]/t",
    ],
)
def test_what_is_no_address_in_brackets_is_no_host(source: str) -> None:
    with pytest.raises(SourceError):
        parse_address(source)


@pytest.mark.parametrize(
    "source",
    [
        "ssh://10.0.0.5%2F@git.company.lan/x",
        "ssh://10.0.0.5%23@git.company.lan/x",
        "ssh://git@git.company.lan/x@[10.0.0.5]:6379/foo",
        "ssh://git@git.company.lan/x%40%5B10.0.0.5]:6379/foo",
        "git@git.company.lan:x@[10.0.0.5]:foo",
        "git://git.company.lan/x@[10.0.0.5]/foo",
    ],
)
def test_git_reads_no_other_host_than_we_do(source: str) -> None:
    with pytest.raises(UnsafeSourceError, match="host"):
        parse_address(source)


def test_a_job_of_a_member_is_told_what_it_may_read(tmp_path: Path) -> None:
    """Down to the fetch, through the pipeline."""
    work = Work("ingest", "http://127.0.0.1:9/team/tool", {}, sites=())
    with (tmp_path / "reports").open("w") as stream, pytest.raises(UnsafeSourceError):
        do(work, Reporter(stream))


def test_a_redirect_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch, "127.0.0.1")
    monkeypatch.setattr(sites, "is_public", lambda ip: True)
    with (
        answering() as (inside, asked),
        answering(f"http://127.0.0.1:{inside}") as (outside, first),
    ):
        address = f"http://git.example.invalid:{outside}/team/tool"
        with pytest.raises(SourceError, match="has moved"):
            fetch(parse_address(address), Progress(), timeout=60, sites=())
    assert first and not asked


@contextmanager
def answering(elsewhere: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """A web server that sends everybody `elsewhere`, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302 if elsewhere else 404)
            if elsewhere:
                self.send_header("Location", elsewhere + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1], asked
        server.shutdown()
        thread.join(10)
