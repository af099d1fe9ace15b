"""Jobs whose replica dies, and errors that nobody foresaw: no job is lost."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError

from job_calls import SHORT, URL, Slow, client_of, events_in, start, until
from lorafleet.errors import NonFiniteError
from lorafleet_serve.replicas.remote_service import RemoteService


def test_an_error_that_nobody_foresaw_ends_its_job_and_keeps_its_words(service, caplog):
    class Broken(Slow):
        async def generate(self, request):
            raise ZeroDivisionError("/etc/secret")

    async def send():
        async with client_of(Broken(service)) as client:
            return await until(client, await start(client, SHORT))

    job = asyncio.run(send())
    assert (job["status"], job["error"]["code"]) == ("failed", "internal")
    assert "secret" not in json.dumps(job)
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(("dies", "status"), [(1, "succeeded"), (2, "failed")])
def test_a_job_whose_replica_dies_is_done_again_once_with_its_seed(service, dies, status):
    asked = []

    class Handle:
        """What a handle of Ray Serve does while replicas die."""

        async def call(self, request):
            asked.append(request)
            if len(asked) <= dies:
                raise ActorDiedError
            return await service.generate(request)

        generate = property(lambda self: SimpleNamespace(remote=self.call))
        ready = property(lambda self: SimpleNamespace(remote=service.ready))
        base = property(lambda self: SimpleNamespace(remote=service.base))

    async def send():
        async with client_of(RemoteService(Handle())) as client:
            id_ = await start(client, SHORT)
            job = await until(client, id_)
            return job, (await client.get(f"{URL}/{id_}/events")).text

    job, text = asyncio.run(send())
    assert job["status"] == status
    assert len(asked) == 2
    assert asked[0] == asked[1]
    assert asked[0].seed is not None
    assert [data["attempt"] for _, event, data in events_in(text) if event == "running"] == [1, 2]
    if status == "failed":
        assert job["error"]["code"] == "unreachable"
    else:
        assert job["result"]["seed"] == asked[0].seed


def test_other_errors_are_not_tried_again(service):
    class Bad(Slow):
        async def generate(self, request):
            self.asked.append(request)
            raise NonFiniteError("an image became NaN")

    async def send():
        bad = Bad(service)
        async with client_of(bad) as client:
            return await until(client, await start(client, SHORT)), len(bad.asked)

    job, asked = asyncio.run(send())
    assert (job["error"]["code"], asked) == ("not_finite", 1)
