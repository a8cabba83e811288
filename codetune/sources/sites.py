"""Which hosts the server reads for somebody else: public ones, and those that are named to it.

Whoever may give the server an address to read could have it look at what only the server reaches:
its loopback, the cloud's metadata, machines of the network. So every address that a host's name
stands for has to be public, and the fetch goes to one that was looked at, whatever the name says
a moment later. Behind a proxy it is the proxy that finds the address, and has to refuse.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from codetune.errors import SourceError, UnsafeSourceError

Ip = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_INSIDE = (  # public by their numbers, and answered by the cloud that a machine stands in
    ip_network("192.0.0.0/24"),
    ip_network("168.63.129.16/32"),
)
_HERE = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


def check_name(host: str, sites: Collection[str]) -> None:
    """Refuse what the name alone shows to be inside the network; nothing is looked up.

    `sites` are the hosts that the administrator allows all the same.

    Raises:
        UnsafeSourceError: it is this machine, or an address that is not public.
    """
    if _is_named(host, sites):
        return
    bare = host.lower().strip("[]").rstrip(".")
    ip = _address(bare)
    if bare in _HERE or bare.endswith(".localhost") or (ip is not None and not is_public(ip)):
        raise _refused(host)


def public_addresses(host: str, sites: Collection[str]) -> list[str]:
    """The IP addresses that the name `host` stands for, all of them public.

    None where `sites` names the host, and where it is an address itself.

    Raises:
        UnsafeSourceError: one of them lies inside a network.
        SourceError: the name is not known.
    """
    if _is_named(host, sites):
        return []
    check_name(host, sites)
    if _address(host.strip("[]")) is not None:
        return []
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SourceError(
            f"{host} cannot be reached: {error.strerror or error}.",
            advice="Check the host's name and the network.",
        ) from error
    # A link-local address brings its interface: fe80::1%eth0.
    names = dict.fromkeys(str(place[0]).partition("%")[0] for *_, place in found)
    if not all(is_public(ip_address(name)) for name in names):
        raise _refused(host)
    return list(names)


def is_public(ip: Ip) -> bool:
    """Whether it is an address of one machine in the public internet, however it is written."""
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.teredo is not None:
            return False
        if inner is not None:
            return is_public(inner)
        if ip.is_site_local:
            return False
    known = any(ip in network for network in _INSIDE)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or known)


def _address(text: str) -> Ip | None:
    """The address that `text` is, as git's libraries read it: 127.1 and 2130706433, too."""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(text))
    except OSError:
        return None


def _is_named(host: str, sites: Collection[str]) -> bool:
    return host.lower().rstrip(".") in {site.lower() for site in sites}


def _refused(host: str) -> UnsafeSourceError:
    return UnsafeSourceError(
        f"{host} is not in the public internet: the server does not read it for its users.",
        advice="The administrator can allow it: `sites` in jobs.yaml.",
    )
