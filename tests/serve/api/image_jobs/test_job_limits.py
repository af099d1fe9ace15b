"""How many jobs wait, run and are kept."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from job_calls import SHORT, URL, Slow, client_of, start, until
from lorafleet.errors import BusyError
from lorafleet_serve.api.image_jobs.image_job import ImageJob
from lorafleet_serve.api.image_jobs.job_limits import JobLimits
from lorafleet_serve.api.image_jobs.job_schemas import JobRequest
from lorafleet_serve.api.schemas import ImageData, ImagesReply


def test_jobs_are_made_in_their_order_within_the_bound_and_know_their_places(service):
    async def send():
        slow = Slow(service)
        async with client_of(slow, images_at_once=2) as client:
            ids = [await start(client, SHORT | {"seed": i, "n": n}) for i, n in enumerate([1, 1, 1, 5, 1])]
            jobs = [(await client.get(f"{URL}/{id_}")).json() for id_ in ids]
            places = [(job["status"], job["place"]) for job in jobs]
            cancelled = (await client.delete(f"{URL}/{ids[2]}")).json()
            after = [(await client.get(f"{URL}/{id_}")).json()["place"] for id_ in ids]
            slow.gate.set()
            ends = [(await until(client, id_))["status"] for id_ in ids]
            return places, cancelled, after, ends, [request.seed for request in slow.asked], slow.most

    places, cancelled, after, ends, order, most = asyncio.run(send())
    assert places == [("running", None), ("running", None), ("queued", 1), ("queued", 2), ("queued", 3)]
    assert (cancelled["status"], cancelled["place"]) == ("cancelled", None)
    assert after == [None, None, None, 1, 2]
    assert ends == ["succeeded", "succeeded", "cancelled", "succeeded", "succeeded"]
    assert most == 5, "a job of more images than the bound runs alone"
    assert order == [0, 1, 3, 4], "a large job waits for its turn and is not overtaken"


def test_too_many_jobs_are_told_to_come_back(service):
    async def send():
        slow = Slow(service)
        async with client_of(slow, images_at_once=1, waiting=2) as client:
            ids = [await start(client, SHORT, **{"Idempotency-Key": str(i)}) for i in range(3)]
            full = await client.post(URL, json=SHORT)
            known = await client.post(URL, json=SHORT, headers={"Idempotency-Key": "2"})
            slow.gate.set()
            ends = [(await until(client, id_))["status"] for id_ in ids]
            return full, known, ids, ends

    full, known, ids, ends = asyncio.run(send())
    assert (full.status_code, full.json()["error"]["code"]) == (429, "busy")
    assert int(full.headers["retry-after"]) >= 1
    assert known.json()["id"] == ids[2], "a job that was accepted is found again by its key"
    assert ends == ["succeeded"] * 3


def test_an_accepted_job_waits_while_others_fill_the_engines(service):
    class Busy(Slow):
        async def generate(self, request):
            self.asked.append(request)
            if len(self.asked) < 3:
                problem = BusyError("full")
                problem.retry_after_s = 0.01
                raise problem
            return await self.service.generate(request)

    async def send():
        async with client_of(Busy(service)) as client:
            return await until(client, await start(client, SHORT))

    assert asyncio.run(send())["status"] == "succeeded"


def test_what_is_kept_no_longer_says_how_long_it_is(service):
    async def send():
        async with client_of(service, kept=2, kept_seconds=120) as client:
            ids = []
            for i in range(3):
                ids.append(await start(client, SHORT, **{"Idempotency-Key": f"k{i}"}))
                await until(client, ids[-1])
            gone = await client.get(f"{URL}/{ids[0]}")
            again = await start(client, SHORT, **{"Idempotency-Key": "k0"})
            kept = (await client.get(f"{URL}/{ids[2]}")).json()["status"]
            elsewhere = await client.get(f"{URL}/job-other-abc")
            await until(client, again)
            return ids, gone, again, kept, elsewhere

    ids, gone, again, kept, elsewhere = asyncio.run(send())
    assert gone.status_code == 404
    assert "2 minutes" in gone.json()["error"]["message"]
    assert again not in ids, "its key went with it"
    assert kept == "succeeded"
    assert elsewhere.status_code == 404
    assert "restarted" in elsewhere.json()["error"]["message"]


def ended_job(nbytes):
    request = JobRequest(prompt="a")
    job = ImageJob("job-0-a", "", None, request, request)
    job.result = ImagesReply(
        created=0, data=(ImageData(b64_json="x" * nbytes, seed=0),), seed=0, model="m", adapters=(), size="8x8",
        steps=1, guidance_scale=1.0, scheduler="s",
    )  # fmt: skip
    return job


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50)), max_size=12),
    st.integers(1, 6), st.integers(0, 120), st.integers(1, 100),
)  # fmt: skip
def test_the_oldest_go_first_and_no_more_than_must(sizes, kept, kept_bytes, kept_seconds):
    limits = JobLimits(kept=kept, kept_bytes=kept_bytes, kept_seconds=kept_seconds)
    ended = [(float(time), ended_job(nbytes)) for time, nbytes in sorted(sizes)]
    gone = limits.surplus(ended, 100.0)
    assert gone == [job for _, job in ended[: len(gone)]]

    def fits(some):
        within = len(some) <= 1 or (len(some) <= kept and sum(job.nbytes for _, job in some) <= kept_bytes)
        return within and all(100 - time < kept_seconds for time, _ in some)

    assert fits(ended[len(gone) :])
    assert not gone or not fits(ended[len(gone) - 1 :])
