"""The webhook as its receiver meets it: a real server, the signature checked as the module's text says."""

import hashlib
import hmac
import json

import pytest

from hook_receiver import receiving
from lorafleet.config.manifest import Notify
from lorafleet.config.strict import parse
from lorafleet.errors import ManifestError
from lorafleet.util.signed_post import signature
from lorafleet_jobs.submission.webhook import notify

BODY = json.dumps({"submission": "pets-01", "state": "failed"}).encode()
KEY = {"HOOK_SECRET": "s3cret"}


@pytest.fixture
def receiver():
    with receiving() as server:
        server.url = f"http://{server.host}/hook/abc?team=1"
        yield server


def test_the_receiver_can_check_who_sent_it_and_when(receiver):
    assert notify(Notify(url=receiver.url, secret_env="HOOK_SECRET"), BODY, KEY) is None
    ((path, headers, body),) = receiver.got
    assert (path, body) == ("/hook/abc?team=1", BODY)
    assert headers["Content-Type"] == "application/json"
    signed = headers["X-Lorafleet-Timestamp"].encode() + b"." + body
    assert headers["X-Lorafleet-Signature"] == "sha256=" + hmac.new(b"s3cret", signed, hashlib.sha256).hexdigest()


def test_a_signature_depends_on_key_time_and_every_byte():
    signed = [
        signature("k", "1", b"ab"),
        signature("l", "1", b"ab"),
        signature("k", "2", b"ab"),
        signature("k", "1", b"a"),
    ]
    assert len(set(signed)) == 4


def test_without_a_secret_nothing_is_signed(receiver):
    assert notify(Notify(url=receiver.url), BODY, {}) is None
    assert "X-Lorafleet-Signature" not in receiver.got[0][1]


def test_a_secret_that_is_not_there_sends_nothing(receiver):
    said = notify(Notify(url=receiver.url, secret_env="HOOK_SECRET"), BODY, {})
    assert "HOOK_SECRET, which is not set" in said
    assert receiver.got == []


def test_it_is_tried_again_and_waits_longer_each_time(receiver):
    receiver.answers += [503, 500]
    waited = []
    assert notify(Notify(url=receiver.url), BODY, {}, waited.append) is None
    assert (len(receiver.got), waited) == (3, [2.0, 4.0])


def test_after_three_tries_it_says_why_without_giving_the_address_away(receiver):
    receiver.answers += [503] * 9
    said = notify(Notify(url=receiver.url), BODY, {}, lambda _seconds: None)
    assert len(receiver.got) == 3
    assert said == f"127.0.0.1:{receiver.server_port} was not notified, in 3 tries: HTTP Error 503: Service Unavailable"


def test_a_redirect_is_not_followed(receiver):
    receiver.answers += [302] * 3
    assert "302" in notify(Notify(url=receiver.url), BODY, {}, lambda _seconds: None)
    assert {path for path, _, _ in receiver.got} == {"/hook/abc?team=1"}


def test_nobody_at_home_is_one_line(receiver):
    receiver.shutdown()
    receiver.server_close()
    said = notify(Notify(url=receiver.url), BODY, {}, lambda _seconds: None)
    assert "refused" in said
    assert "\n" not in said


@pytest.mark.parametrize("url", [
    "ftp://host/x", "file:///etc/passwd", "host/x", "http://", "http://user:pw@host/x", "http://host/a b", "http:///x",
])  # fmt: skip
def test_only_plain_http_addresses_are_taken(url):
    with pytest.raises(ManifestError, match=r"notify: url is '"):
        parse(Notify, {"url": url}, "notify")


@pytest.mark.parametrize("url", ["https://host", "http://host:8080/x?y=1", "http://[::1]:80/x"])
def test_plain_http_addresses_are_taken(url):
    assert parse(Notify, {"url": url}, "notify").url == url
