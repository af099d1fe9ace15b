"""Whether somebody answers at an address, found out in seconds, and without a proxy where it is this machine's own.

Knows hosts and ports; refuses to know what is said there.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

KNOCK_SECONDS = 3.0
ANSWER_SECONDS = 10.0
SETTINGS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
"""What an HTTP/2 client says first: the connection preface and an empty SETTINGS frame."""


def knock(host: str, port: int) -> None:
    """Raises OSError within seconds if nobody listens there."""
    socket.create_connection((host, port), timeout=KNOCK_SECONDS).close()


def await_rpc(address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Raises OSError unless a gRPC server answers at `host:port`: a bare listener may belong to a proxy, or hang.

    gRPC is HTTP/2, whose servers begin with a SETTINGS frame (RFC 9113, 3.4). Behind TLS (RAY_USE_TLS) only the
    listener is asked for.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        knock(host, int(port))
        return
    with socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS) as connection:
        connection.settimeout(seconds)
        connection.sendall(PREFACE)
        try:
            header = connection.recv(9, socket.MSG_WAITALL)
        except TimeoutError:
            raise TimeoutError(f"something listens there, but nothing answered within {seconds:g} s") from None
    if len(header) < 9 or header[3] != SETTINGS:
        raise ConnectionError("something listens there, but it is no Ray")


def is_loopback(host: str) -> bool:
    """Whether a host's name or number is this machine itself, whatever the network."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False
    return number.is_loopback or number.is_unspecified


def ask_directly(url: str) -> None:
    """From now on this process and its children ask the URL's host without a proxy, if it is this machine itself.

    A proxy, which `http_proxy` names, has another loopback.
    """
    host = urlsplit(url).hostname
    if host is None or not is_loopback(host):
        return
    said = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [one.strip() for one in said.split(",") if one.strip()]
    if host not in hosts and "*" not in hosts:
        hosts.append(host)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)
