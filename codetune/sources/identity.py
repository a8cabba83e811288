"""Which repository something is: host/owner/name, and its address without credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import unquote, urlsplit

from codetune.errors import SourceError, UnsafeSourceError, nearest

_SCHEMES = ("https", "http", "ssh", "git", "file")
_TRANSPORT = re.compile(r"[A-Za-z0-9+.-]+::")
_SCP = re.compile(r"(?:(?P<user>[^@:/\s]+)@)?(?P<host>[^@:/\s]+):(?P<path>(?!//)\S.*)", re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_USER = re.compile(r"[\w.+~-]*", re.ASCII)  # of ssh: nothing that could end the user's part
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Address:
    """A remote repository's address taken apart; `url` holds no password and no token."""

    url: str
    scheme: str
    host: str
    path: str
    user: str = ""
    password: str = ""
    port: int | None = None  # where the address names one

    @property
    def name(self) -> str:
        """host/owner/name, without `.git`."""
        path = self.path.strip("/").removesuffix(".git").rstrip("/")
        return f"{self.host.lower()}/{path}" if self.host else path.rpartition("/")[2]


def looks_remote(source: str) -> bool:
    """Whether `source` has the form of an address rather than of a path."""
    return "://" in source or bool(_TRANSPORT.match(source)) or bool(_SCP.fullmatch(source))


def parse_address(source: str) -> Address:
    """Take a repository's address apart.

    Raises:
        UnsafeSourceError: it would make git run a program or read an option.
        SourceError: it is no address that git could fetch from.
    """
    if source.startswith("-"):
        raise UnsafeSourceError(
            f"'{source}' begins with '-': git would take it for an option.",
            advice="Write ./ before the name of a local folder.",
        )
    if _CONTROL.search(source):
        raise UnsafeSourceError("The address holds control characters.")
    if _TRANSPORT.match(source):
        raise UnsafeSourceError(
            f"'{source.partition('::')[0]}::' addresses run a program on this machine.",
            advice="Use an https:// or ssh:// address.",
        )
    if "://" in source:
        return _from_url(source)
    match = _SCP.fullmatch(source)
    if match is None:
        raise SourceError(f"'{source}' is not an address of a repository.")
    user, host, path = match["user"] or "", match["host"], match["path"]
    _check(user, host, path)
    _check_account(user)
    return Address(source, "ssh", host, path, user)


def _from_url(source: str) -> Address:
    try:
        parts = urlsplit(source)
        port = parts.port
    except ValueError as error:
        raise SourceError(f"The address cannot be read: {error}.") from error
    if parts.scheme not in _SCHEMES:
        raise SourceError(
            f"'{parts.scheme}://' addresses are not supported.",
            advice=nearest(parts.scheme, _SCHEMES),
        )
    host, user = parts.hostname or "", unquote(parts.username or "")
    password = unquote(parts.password or "")
    if parts.scheme != "file":
        _check(user, host, parts.path)
        if _CONTROL.search(user + password):
            raise UnsafeSourceError("The address holds control characters.")
        if parts.scheme == "ssh":
            _check_account(user)
    elif host not in ("", "localhost"):
        raise SourceError("A file:// address names this machine: file:///path/to/repository.")
    # A name without a password is an account (ssh) or may itself be a token (https).
    shown_user = f"{user}@" if user and parts.scheme == "ssh" else ""
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = f":{port}" if port else ""
    url = f"{parts.scheme}://{shown_user}{shown_host}{shown_port}{parts.path}"
    return Address(url, parts.scheme, host, parts.path, user, password, port)


def _check(user: str, host: str, path: str) -> None:
    if user.startswith("-") or host.startswith("-") or path.lstrip("/").startswith("-"):
        raise UnsafeSourceError("A part of the address begins with '-': ssh would read an option.")
    if not (_HOST.fullmatch(host) or _is_ipv6(host)):
        raise SourceError(f"'{host}' is not a host name.")
    if "@[" in unquote(path):
        raise UnsafeSourceError("The address names a second host, which git would read instead.")
    if not path.strip("/"):
        raise SourceError("The address names a host, but no repository on it.")


def _check_account(user: str) -> None:
    """Of a user whose name stands in the address that git is given."""
    if not _USER.fullmatch(user):
        raise UnsafeSourceError(
            "The user in the address has characters by which git would read another host."
        )


def _is_ipv6(host: str) -> bool:
    try:
        return "%" not in host and bool(IPv6Address(host))
    except ValueError:
        return False


def without_credentials(text: str) -> str:
    """`text` with every `user:password@` of an address replaced, for logs and messages."""
    return re.sub(r"(\w+://)[^/@\s]+@", r"\1***@", text)
