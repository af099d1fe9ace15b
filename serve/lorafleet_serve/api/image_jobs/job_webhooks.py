"""Tells the address that a job names how it ended: only addresses on hosts that the operator allows.

A caller who may name any address could make the server send to what only the server reaches: a database, a cloud's
metadata, a router. Hence no host is allowed by default, redirects are not followed, and the answer is not read. Knows
hosts and a key; the POST, its signature and its tries are `util/signed_post.py`'s.
"""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import httpx

from lorafleet.errors import RequestError
from lorafleet.util.reach import PORTS
from lorafleet.util.signed_post import post_signed
from lorafleet_serve.api.image_jobs.image_job import ImageJob

SECRET_ENV = "LORAFLEET_WEBHOOK_SECRET"
AT_ONCE = 2
log = logging.getLogger(__name__)


class JobWebhooks:
    """Sends from threads of its own, a few at a time."""

    def __init__(self, hosts: tuple[str, ...] = (), secret: str | None = None) -> None:
        """`hosts`: HOST for the default ports of http and https, HOST:PORT for another.

        `secret` is the signature's key, by default what LORAFLEET_WEBHOOK_SECRET holds; without one nothing is signed.
        """
        self.hosts = tuple(host.lower() for host in hosts)
        self._secret = secret or os.environ.get(SECRET_ENV)
        self._threads = ThreadPoolExecutor(AT_ONCE, "job-webhook")

    def check(self, address: str) -> None:
        """RequestError unless an address is on an allowed host."""
        try:
            url = httpx.URL(address)  # read as the client that sends to it reads it
        except httpx.InvalidURL as problem:
            raise RequestError(f"webhook.url is {address!r}, which is no address ({problem})") from None
        host = f"[{url.host}]" if ":" in url.host else url.host
        default = PORTS[url.scheme]
        names = {f"{host}:{url.port or default}"} | ({host} if url.port in (None, default) else set())
        if names.isdisjoint(self.hosts):
            allowed = f"allowed are {', '.join(self.hosts)}" if self.hosts else "this server sends to none"
            raise RequestError(
                f"webhook.url is on {url.netloc.decode()}; {allowed}. Ask its operator for --webhook-host, or follow "
                "the job by its events"
            )

    def tell(self, job: ImageJob) -> None:
        """Posts where the job stands, without prompt and images, if it names an address; returns at once."""
        if job.webhook is not None:
            asyncio.get_running_loop().run_in_executor(self._threads, self._post, job.webhook, job)

    def _post(self, address: str, job: ImageJob) -> None:
        body = job.reply().model_dump_json(exclude={"result", "place"}).encode()
        problem = post_signed(address, body, self._secret)
        if problem is not None:
            log.warning("job %s: %s", job.id, problem)
