"""Denies the network to a process that has this folder on its PYTHONPATH: a call that would
leave the machine ends the run."""

import sys

LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None}


def deny(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if isinstance(host, bytes):
        host = host.decode()
    if host not in LOCAL:
        raise RuntimeError(f"offline: {event} to {host!r}")


sys.addaudithook(deny)
