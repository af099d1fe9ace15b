"""Images as jobs over HTTP and a real engine, without Ray: made later, and once for one key."""

import asyncio

import numpy as np
import pytest

from job_calls import IMAGES, LONG, SHORT, URL, client_of, pixels, start, until


def test_a_job_has_the_images_that_the_same_request_has(service):
    body = {"prompt": "<dog-rex> <lora:mug-red:0.5>", "seed": 3, "steps": 2, "n": 2, "model": "dog-rex@1"}

    async def both():
        async with client_of(service) as client:
            accepted = await client.post(URL, json=body)
            job = await until(client, accepted.json()["id"])
            return accepted, job, (await client.post(IMAGES, json=body)).json()

    accepted, job, reply = asyncio.run(both())
    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"{URL}/{job['id']}"
    assert accepted.json()["status"] in ("queued", "running")
    assert job["status"] == "succeeded"
    assert job["created"] <= job["finished"]
    assert (job["error"], job["place"]) == (None, None)
    for mine, theirs in zip(pixels(job["result"]), pixels(reply), strict=True):
        assert np.abs(mine - theirs).max() <= 2
    others = [
        {key: value for key, value in each.items() if key not in ("data", "created")} for each in (job["result"], reply)
    ]
    assert others[0] == others[1]


@pytest.mark.parametrize(("body", "says"), [
    ({"prompt": "a", "stepz": 3}, "did you mean 'steps'?"),
    ({"prompt": "a", "n": 11}, "n is 11"),
    ({"prompt": "a <lora:dog-rex:x>"}, "<lora:"),
], ids=str)  # fmt: skip
def test_a_wrong_body_is_refused_at_once_as_everywhere(service, body, says):
    async def send():
        async with client_of(service) as client:
            return await client.post(URL, json=body), await client.post(IMAGES, json=body), await client.get(URL)

    mine, theirs, listed = asyncio.run(send())
    assert mine.status_code == theirs.status_code
    assert mine.status_code in (400, 422)
    assert mine.json() == theirs.json()
    assert says in mine.json()["error"]["message"]
    assert listed.json() == {"jobs": []}


@pytest.mark.parametrize("body", [
    {"prompt": "a", "adapters": [{"name": "nobody"}]}, {"prompt": "a", "size": "36x32"},
    {"prompt": "a", "scheduler": "euler"},
], ids=str)  # fmt: skip
def test_what_the_engine_refuses_is_the_error_of_a_failed_job(service, body):
    async def send():
        async with client_of(service) as client:
            return await until(client, await start(client, body)), await client.post(IMAGES, json=body)

    job, reply = asyncio.run(send())
    assert (job["status"], job["result"]) == ("failed", None)
    assert job["error"] == reply.json()["error"]


def test_cancelling_a_running_job_frees_the_engine(service):
    async def send():
        async with client_of(service) as client:
            before = service.engine.stats()
            id_ = await start(client, LONG)
            while service.engine.stats().rows_running < LONG["n"]:
                await asyncio.sleep(0.01)
            first = (await client.delete(f"{URL}/{id_}")).json()
            again = (await client.delete(f"{URL}/{id_}")).json()
            while service.engine.stats().rows_running:
                await asyncio.sleep(0.01)
            stats = service.engine.stats()
            return first, again, stats.cancelled - before.cancelled, stats.images - before.images

    first, again, cancelled, images = asyncio.run(send())
    assert (first["status"], first["result"]) == ("cancelled", None)
    assert first == again
    assert (cancelled, images) == (2, 0)


def test_cancelling_what_has_ended_changes_nothing(service):
    async def send():
        async with client_of(service) as client:
            job = await until(client, await start(client, SHORT))
            return job, (await client.delete(f"{URL}/{job['id']}")).json()

    job, deleted = asyncio.run(send())
    assert job == deleted


def test_one_key_is_one_job_however_many_send_it_at_once(service):
    async def send():
        before = service.engine.stats().images
        async with client_of(service) as client:
            body = SHORT | {"model": "dog-rex"}  # understanding it awaits the backend, between the looks at the key
            replies = await asyncio.gather(
                *(client.post(URL, json=body, headers={"Idempotency-Key": "k"}) for _ in range(20))
            )
            job = await until(client, replies[0].json()["id"])
            late = await client.post(URL, json=body, headers={"Idempotency-Key": "k"})
            other = await client.post(URL, json=SHORT | {"seed": 1}, headers={"Idempotency-Key": "k"})
            stranger = await client.post(
                URL, json=body, headers={"Idempotency-Key": "k", "Authorization": "Bearer other"}
            )
            long = await client.post(URL, json=body, headers={"Idempotency-Key": "k" * 256})
            made = service.engine.stats().images - before
            return replies, job, late, other, stranger, long, made

    replies, job, late, other, stranger, long, made = asyncio.run(send())
    assert {reply.status_code for reply in replies} == {202}
    assert {reply.json()["id"] for reply in replies} == {job["id"]}
    assert late.json() == job
    assert late.headers["idempotent-replayed"] == "true"
    assert other.status_code in (400, 422)
    assert "another body" in other.json()["error"]["message"]
    assert job["id"] in other.json()["error"]["message"]
    assert stranger.json()["id"] != job["id"], "the keys of callers are their own"
    assert "256 characters" in long.json()["error"]["message"]
    assert made == 1


def test_the_list_is_the_callers_newest_without_prompts(service):
    async def send():
        async with client_of(service, waiting=100) as client:
            mine = [await start(client, SHORT, Authorization="Bearer me") for _ in range(4)]
            theirs = await start(client, SHORT)
            newest = (await client.get(URL, params={"limit": 3}, headers={"Authorization": "Bearer me"})).json()["jobs"]
            return (
                mine,
                theirs,
                newest,
                (await client.get(URL)).json()["jobs"],
                await client.get(URL, params={"limit": 0}),
            )

    mine, theirs, newest, others, wrong = asyncio.run(send())
    assert [job["id"] for job in newest] == mine[:0:-1]
    assert [job["id"] for job in others] == [theirs]
    assert set(newest[0]) == {"id", "status", "place", "created", "finished"}
    assert wrong.status_code in (400, 422)
