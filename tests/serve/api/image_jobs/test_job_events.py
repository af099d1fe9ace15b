"""A job's changes as server-sent events."""

import asyncio

from job_calls import SHORT, URL, Slow, client_of, events_in, start, until


def test_events_tell_a_late_subscriber_everything_and_another_the_rest(service):
    async def send():
        slow = Slow(service)
        async with client_of(slow, images_at_once=1, heartbeat_seconds=0.05) as client:
            first, _, second = [await start(client, SHORT) for _ in range(3)]
            listening = asyncio.create_task(client.get(f"{URL}/{second}/events"))
            await asyncio.sleep(0.3)
            slow.gate.set()
            live = await listening
            late = await client.get(f"{URL}/{second}/events")
            seen = events_in(late.text)[0][0]
            rest = await client.get(f"{URL}/{second}/events", headers={"Last-Event-ID": str(seen)})
            nothing = await client.get(f"{URL}/{second}/events", headers={"Last-Event-ID": "99"})
            wrong = await client.get(f"{URL}/{second}/events", headers={"Last-Event-ID": "soon"})
            missing = await client.get(f"{URL}/nobody/events")
            await until(client, first)
            return second, live, late, rest, nothing, wrong, missing

    id_, live, late, rest, nothing, wrong, missing = asyncio.run(send())
    assert live.headers["content-type"].startswith("text/event-stream")
    assert live.text.count("\n: ") + live.text.startswith(": ") >= 2, "heartbeats while nothing happened"
    told = events_in(late.text)
    assert [event for _, event, _ in told] == ["queued", "running", "succeeded"]
    assert told[0][2] == {"id": id_, "status": "queued", "place": 1}
    assert [event for event in told if event in events_in(live.text)] == told
    assert [number for number, _, _ in told] == sorted({number for number, _, _ in told})
    assert events_in(rest.text) == told[1:]
    assert (nothing.status_code, nothing.text) == (204, "")
    assert "'soon'" in wrong.json()["error"]["message"]
    assert missing.status_code == 404


def test_events_of_a_failure_have_the_error_and_streams_are_bounded(service):
    async def send():
        slow = Slow(service)
        async with client_of(slow, streams=1) as client:
            id_ = await start(client, {"prompt": "a", "adapters": [{"name": "nobody"}]})
            listening = asyncio.create_task(client.get(f"{URL}/{id_}/events"))
            await asyncio.sleep(0.05)
            second = await client.get(f"{URL}/{id_}/events")
            slow.gate.set()
            told = await listening
            return second, told, await until(client, id_), await client.get(f"{URL}/{id_}/events")

    second, told, job, third = asyncio.run(send())
    assert second.status_code == 429
    assert events_in(told.text)[-1][1:] == ("failed", {"id": job["id"], "status": "failed", "error": job["error"]})
    assert third.status_code == 200, "the first stream has ended"
