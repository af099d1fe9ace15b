"""The Dockerfile and compose.yaml say what their readers accept, and agree with each other; they are not built here."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_the_image_is_pinned_and_runs_as_nobody_special(parses):
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(images) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-\w+", image) for image in images)
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["lorafleet"]
    assert "HEALTHCHECK" in DOCKERFILE
    assert "RAY_AUTH_MODE=token" in DOCKERFILE
    assert "--no-deps --index-url" in DOCKERFILE, "CUDA comes with PyTorch only where it is asked for"
    parses(json.loads(DOCKERFILE.splitlines()[-1].removeprefix("CMD ")))


def test_everything_the_image_copies_is_there_and_sent_to_the_builder():
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.+)", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    assert {"pyproject.toml", "constraints.txt", "platform"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert name in sent, name


def test_only_the_apis_port_is_published_and_only_to_this_machine():
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports == {"api": ["127.0.0.1:8000:8000"]}
    assert "network_mode" not in json.dumps(COMPOSE)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_pinned_and_watched(name):
    service = COMPOSE["services"][name]
    assert service["image"] == f"lorafleet:{VERSION}" or re.fullmatch(r"postgres:\d+\.\d+-\w+", service["image"])
    assert "healthcheck" in service or name == "api", "the API's is the image's own"
    assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
    for volume in service.get("volumes", []):
        source = volume.split(":/")[0]
        assert source in COMPOSE["volumes"] or source.startswith("${PHOTOS")


@pytest.mark.parametrize("name", [name for name, one in COMPOSE["services"].items() if "command" in one])
def test_a_services_command_line_is_understood(name, parses, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS")
    parses([re.sub(r"\$\{\w+:-(.*)}", r"\1", word) for word in COMPOSE["services"][name]["command"]])


def test_every_variable_is_explained_and_every_secret_demanded():
    used = dict(re.findall(r"\$\{(\w+)(:[-?])", (ROOT / "compose.yaml").read_text()))
    explained = re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert sorted(used) == sorted(explained)
    assert {name for name, how in used.items() if how == ":?"} == {"POSTGRES_PASSWORD", "RAY_AUTH_TOKEN"}
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_mlflow_answers_to_the_names_it_is_called_by():
    command = COMPOSE["services"]["mlflow"]["command"]
    hosts = next(word for word in command if word.startswith("--allowed-hosts=")).partition("=")[2].split(",")
    for name in ("head", "api"):
        assert COMPOSE["services"][name]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://") in hosts
    assert "*" not in hosts
