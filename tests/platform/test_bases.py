"""A base is found by what a user writes: a short name, a folder, a hub id in the cache; or refused in one line."""

import pytest

from lorafleet.basefiles.from_folder import add_folder
from lorafleet.bases import SHIPPED, find_base
from lorafleet.errors import BaseModelError
from lorafleet.home import Home


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("models/sdxl/fp16", "is not here: there is no folder {here}/models/sdxl/fp16"),
        ("C:/models/sdxl", "there is no folder {here}/C:/models/sdxl"),
        ("my models/sdxl", "there is no folder {here}/my models/sdxl"),
        ("./mine", "there is no folder {here}/mine"),
        ("/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("~no-such-user/x", "there is no folder {here}/~no-such-user/x"),
        ("some--body/sdxl", "there is no folder {here}/some--body/sdxl"),
        ("x/" + "y" * 5000, "is not here"),
        ("https://huggingface.co/a/sdxl/tree/main", "is a URL, and nothing is downloaded from one; run hf download"),
        ("s3://bucket/sdxl", "is a URL"),
        ("a/sdxl/", "'a/sdxl' would be a hub id"),
        ("a/sdxl", "(nor is there a folder {here}/a/sdxl); fetch it first: hf download a/sdxl"),
        ("one.safetensors", "is a file, and a base is a folder; make one of it once: "),
        ("./one.safetensors", "lorafleet bases add {here}/one.safetensors --name NAME, and give NAME as the base"),
        ("empty", "is a folder without model_index.json"),
        ("two/empty", "is a folder without model_index.json"),
        ("toy", "Allowed: toy-sdxl, toy-playground"),
    ],
)  # fmt: skip
def test_a_base_that_is_not_there_is_one_line(tmp_path, monkeypatch, name, says):
    (tmp_path / "one.safetensors").write_bytes(bytes(64))
    (tmp_path / "two" / "empty").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for beside in (None, tmp_path):
        with pytest.raises(BaseModelError) as refused:
            find_base(name, beside)
        assert says.format(here=tmp_path) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_relative_path_starts_where_it_was_written(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(SHIPPED["toy-sdxl"])
    (tmp_path / "sdxl").mkdir()  # pictures, say, and no base
    monkeypatch.chdir("/")
    for name in ("models/mine", "./models/mine", str(tmp_path / "models" / "mine")):
        base = find_base(name, tmp_path)
        assert find_base(base.name).path == base.path == SHIPPED["toy-sdxl"].resolve()
        assert base.is_toy
    with pytest.raises(BaseModelError, match="hf download stabilityai/stable-diffusion-xl-base"):
        find_base("sdxl", tmp_path)


def test_an_added_base_goes_before_a_folder_so_called_which_has_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    added = add_folder(find_base("toy-sdxl"), "mine", Home.from_environment()).base
    (tmp_path / "mine").symlink_to(SHIPPED["toy-playground"])
    assert find_base("mine", tmp_path) == added
    assert find_base("./mine", tmp_path).path == SHIPPED["toy-playground"].resolve()
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "another"))
    assert find_base("mine", tmp_path).path == SHIPPED["toy-playground"].resolve()
    assert find_base("mine", tmp_path, Home(tmp_path / "home")) == added


def test_a_hub_id_is_found_in_the_cache_and_a_folder_so_called_goes_first(tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "models--someone--sdxl"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (cache / "snapshots").mkdir()
    (cache / "snapshots" / ("0" * 40)).symlink_to(SHIPPED["toy-sdxl"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    base = find_base("someone/sdxl", tmp_path)
    assert (base.name, base.path.resolve()) == ("someone/sdxl", SHIPPED["toy-sdxl"].resolve())
    assert base.fingerprint == find_base("toy-sdxl").fingerprint
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "sdxl").symlink_to(SHIPPED["toy-playground"])
    assert find_base("someone/sdxl", tmp_path).path == SHIPPED["toy-playground"].resolve()
