"""Whether a server answers at an address, found out in seconds, and without a proxy if it is on this machine.

Knows hosts and ports; refuses to know what clients and servers say to each other afterwards.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlsplit

CONNECT_SECONDS = 3.0
ANSWER_SECONDS = 10.0
SETTINGS = 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
"""The first bytes of an HTTP/2 client: the connection preface and an empty SETTINGS frame."""
PORTS = {"http": 80, "https": 443}


def probe(host: str, port: int) -> None:
    """Raises OSError within seconds if nothing listens at a host's port."""
    socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()


def probe_url(url: str) -> None:
    """Raises OSError within seconds if nothing listens at the host and port of an HTTP URL."""
    parts = urlsplit(url)
    probe(parts.hostname or "", parts.port or PORTS[parts.scheme])


def await_rpc(address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Raises OSError unless a gRPC server answers at `host:port`: what only listens may be a proxy, or hang.

    gRPC is HTTP/2, whose servers begin with a SETTINGS frame (RFC 9113, 3.4). Behind TLS (RAY_USE_TLS) it is only
    checked that something listens.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        probe(host, int(port))
        return
    with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
        connection.settimeout(seconds)
        connection.sendall(PREFACE)
        try:
            header = connection.recv(9, socket.MSG_WAITALL)
        except TimeoutError:
            raise TimeoutError(f"something listens there, but nothing answered within {seconds:g} s") from None
    if len(header) < 9 or header[3] != SETTINGS:
        raise ConnectionError("something listens there, but it is no Ray")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine in every network."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def ask_directly(url: str) -> None:
    """Makes this process and its children reach the URL's host without a proxy, if that host is this machine.

    What `http_proxy` names would look for the server on its own loopback interface. Sets `no_proxy`.
    """
    host = urlsplit(url).hostname
    if host is None or not is_loopback(host):
        return
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [name.strip() for name in listed.split(",") if name.strip()]
    if host not in hosts and "*" not in hosts:
        hosts.append(host)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)
