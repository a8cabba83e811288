"""Addresses taken apart."""

from __future__ import annotations

import pytest

from codetune.errors import SourceError
from codetune.sources.identity import looks_remote, parse_address, without_credentials


@pytest.mark.parametrize(
    "address, name, url",
    [
        (
            "https://GitHub.com/Owner/Name.git",
            "github.com/Owner/Name",
            "https://github.com/Owner/Name.git",
        ),
        ("https://user:token@host.org/a/b/c", "host.org/a/b/c", "https://host.org/a/b/c"),
        ("https://ghp_token@host.org/a/b/", "host.org/a/b", "https://host.org/a/b/"),
        ("ssh://git@host.org:2222/a/b.git", "host.org/a/b", "ssh://git@host.org:2222/a/b.git"),
        ("git@host.org:a/b.git", "host.org/a/b", "git@host.org:a/b.git"),
        ("git://[::1]:9418/x.git", "::1/x", "git://[::1]:9418/x.git"),
    ],
)
def test_names_and_addresses(address, name, url):
    parsed = parse_address(address)
    assert (parsed.name, parsed.url) == (name, url)
    assert looks_remote(address)


def test_credentials_are_kept_apart():
    parsed = parse_address("https://us%40er:p%3Aw@host.org/a/b")
    assert (parsed.user, parsed.password) == ("us@er", "p:w")


@pytest.mark.parametrize("path", ["/home/me/code", "../code", "code", "./a:b", "C"])
def test_paths_are_not_addresses(path):
    assert not looks_remote(path)


@pytest.mark.parametrize(
    "address", ["ftp://h/a", "https:///a", "https://h", "https://h:port/a", "x"]
)
def test_unusable_addresses(address):
    with pytest.raises(SourceError):
        parse_address(address)


def test_messages_lose_credentials():
    text = "fatal: https://me:tok@h.org/a and ssh://git@h.org/b"
    assert without_credentials(text) == "fatal: https://***@h.org/a and ssh://***@h.org/b"
