"""Who is told of a job's end, how it is signed, and that no other host is ever sent to."""

import asyncio
import hashlib
import hmac
import json

import pytest

from hook_receiver import receiving
from job_calls import SHORT, URL, client_of, start, until
from lorafleet.errors import RequestError
from lorafleet_serve.api.image_jobs.job_webhooks import SECRET_ENV, JobWebhooks


@pytest.fixture
def receiver():
    with receiving() as server:
        yield server


@pytest.mark.parametrize(("adapter", "status"), [("dog-rex", "succeeded"), ("nobody", "failed")])
def test_the_end_is_told_signed_and_without_prompt_and_images(service, receiver, monkeypatch, adapter, status):
    monkeypatch.setenv(SECRET_ENV, "s3cret")
    hook = {"url": f"http://{receiver.host}/done?order=7"}

    async def send():
        async with client_of(service, webhook_hosts=(receiver.host,)) as client:
            id_ = await start(client, SHORT | {"webhook": hook, "adapters": [{"name": adapter}]})
            job = await until(client, id_)
            assert await asyncio.to_thread(receiver.told.wait, 30)
            return job

    job = asyncio.run(send())
    assert job["status"] == status
    ((_, headers, body),) = receiver.got
    told = json.loads(body)
    assert told == {key: job[key] for key in ("id", "status", "created", "finished", "error")}
    signed = headers["X-Lorafleet-Timestamp"].encode() + b"." + body
    assert headers["X-Lorafleet-Signature"] == "sha256=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()


def test_no_host_is_sent_to_unless_it_is_allowed(service, receiver):
    async def send():
        async with client_of(service) as client:
            hook = {"url": f"http://{receiver.host}/done"}
            refused = await client.post(URL, json=SHORT | {"webhook": hook})
            wrong = await client.post(URL, json=SHORT | {"webhook": {"url": "file:///etc/passwd"}})
            misspelt = await client.post(URL, json=SHORT | {"webhok": hook})
            return refused, wrong, misspelt, (await client.get(URL)).json()

    refused, wrong, misspelt, listed = asyncio.run(send())
    assert refused.status_code in (400, 422)
    assert "--webhook-host" in refused.json()["error"]["message"]
    assert "webhook.url" in wrong.json()["error"]["message"]
    assert "did you mean 'webhook'?" in misspelt.json()["error"]["message"]
    assert listed == {"jobs": []}
    assert receiver.got == []


@pytest.mark.parametrize(("url", "is_allowed"), [
    ("https://hooks.example/x", True), ("http://HOOKS.example:80/x", True), ("http://hooks.example:8080/x", False),
    ("https://hooks.example:80/x", False), ("https://hooks.example.evil/x", False),
    ("http://evil/hooks.example", False), ("http://evil\\hooks.example/", False),
    ("https://a.hooks.example/x", False), ("http://10.0.0.5:9000", True),
    ("http://10.0.0.5", False), ("http://[::1]:7000/x", True), ("http://[::1]/x", False),
    ("http://169.254.169.254/latest", False), ("http://0x7f.1/", False),
])  # fmt: skip
def test_hosts_are_compared_whole_and_ports_count(url, is_allowed):
    webhooks = JobWebhooks(("Hooks.example", "10.0.0.5:9000", "[::1]:7000"))
    if is_allowed:
        webhooks.check(url)
    else:
        with pytest.raises(RequestError, match="webhook"):
            webhooks.check(url)
