"""What tests of images as jobs say to an application in this process."""

import asyncio
import base64
import io
import json
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
from PIL import Image

from lorafleet_serve.api.app import build_app
from lorafleet_serve.api.image_jobs.job_limits import JobLimits

URL, IMAGES = "/v1/jobs", "/v1/images/generations"
LONG = {"prompt": "a dog", "steps": 100, "size": "64x64", "n": 2}
SHORT = {"prompt": "a dog", "steps": 1}
ENDED = {"succeeded", "failed", "cancelled"}


@asynccontextmanager
async def client_of(backend, **limits):
    transport = httpx.ASGITransport(build_app(backend, "here", limits=JobLimits(**limits)), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def until(client, id_, statuses=ENDED, seconds=60):
    for _ in range(seconds * 50):
        job = (await client.get(f"{URL}/{id_}")).raise_for_status().json()
        if job["status"] in statuses:
            return job
        await asyncio.sleep(0.02)
    return pytest.fail(f"the job is {job['status']} after {seconds} s")


async def start(client, body, **headers):
    reply = await client.post(URL, json=body, headers=headers)
    assert reply.status_code == 202, reply.text
    return reply.json()["id"]


def events_in(text):
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.split("\n\n") if block]
    return [(int(block["id"]), block["event"], json.loads(block["data"])) for block in blocks if "" not in block]


def pixels(result):
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))), dtype=int) for one in result["data"]]


class Slow:
    """The service, whose images wait until they are let go, and a count of how often they were asked for."""

    def __init__(self, service):
        self.service, self.asked, self.gate = service, [], asyncio.Event()
        self.now = self.most = 0  # images that are made at the same time

    def __getattr__(self, name):
        return getattr(self.service, name)

    async def generate(self, request):
        self.asked.append(request)
        self.now += request.n
        self.most = max(self.most, self.now)
        await self.gate.wait()
        reply = await self.service.generate(request)
        self.now -= request.n
        return reply
