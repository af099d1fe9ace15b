"""`bases ls`, `verify` and `rm` as a user meets them."""

from __future__ import annotations

import json
import os

import pytest
import torch
from base_files import add_toy, other_vae
from safetensors.torch import load_file, save_file

from lorafleet.bases import find_base
from lorafleet.home import Home


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def test_ls_shows_what_is_here(lorafleet, home, capsys):
    assert lorafleet("bases", "ls", "--json") == 0
    before = json.loads(capsys.readouterr().out)["bases"]
    assert [base["name"] for base in before] == ["toy-sdxl", "toy-playground"]
    add_toy("reds", home, "v-zero-snr", **{"modelspec.license": "mit"})
    assert lorafleet("bases", "ls", "--json") == 0
    reds = json.loads(capsys.readouterr().out)["bases"][-1]
    assert reds["bytes"] > 13_000_000
    del reds["bytes"]
    assert reds == {"name": "reds", "prediction": "v_prediction", "resolution": 32, "licence": "mit",
                    "place": "added", "path": str(home.bases / "reds")}  # fmt: skip
    assert lorafleet("bases", "ls") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["base", "predicts", "side", "GiB", "licence", "place"]
    assert ["reds", "v_prediction", "32", "0.01", "mit", "added"] in rows


def test_verify_reads_everything(lorafleet, home, tmp_path, capsys):
    base = add_toy("reds", home)
    assert lorafleet("bases", "verify", "reds") == 0
    said = capsys.readouterr().out
    assert said.startswith("reds: ")
    assert "all finite and of their shapes, every file as it was added" in said
    count = sum(len(base.tensors(part)) for part in ("unet", "text_encoder", "text_encoder_2", "vae"))
    assert f"{count} tensors" in said
    assert lorafleet("bases", "verify", "toy-playground") == 0
    assert "no hash is known" in capsys.readouterr().out
    assert lorafleet("bases", "verify", tmp_path) == 2


@pytest.mark.parametrize("part", ["unet", "text_encoder", "text_encoder_2", "vae"])
def test_verify_finds_one_value_that_is_not_finite(lorafleet, home, capsys, part):
    file = add_toy("reds", home).files(part).paths[0]
    tensors = load_file(file)
    name = sorted(tensors)[len(tensors) // 2]
    tensors[name].flatten()[-1] = torch.inf
    save_file(tensors, file)
    assert lorafleet("bases", "verify", "reds", "--json") == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert problems == [f"{part}/{file.name} is not what it was when the base was added",
                        f"{part}: {name} holds a value that is not finite"]  # fmt: skip


def test_verify_finds_what_was_altered_lost_or_reshaped(lorafleet, home, capsys):
    base = add_toy("reds", home)

    def problems():
        assert lorafleet("bases", "verify", "reds", "--json") == 1
        return json.loads(capsys.readouterr().out)["problems"]

    with (base.path / "scheduler" / "scheduler_config.json").open("a") as file:
        file.write(" ")
    assert problems() == ["scheduler/scheduler_config.json is not what it was when the base was added"]
    unet = base.files("unet").paths[0]
    tensors = load_file(unet)
    del tensors["conv_in.bias"]
    tensors["conv_out.bias"] = torch.zeros(5)
    save_file(tensors, unet)
    found = problems()
    assert "unet: conv_in.bias is not there; by its configuration it is [48]" in found
    assert "unet: conv_out.bias is [5]; by its configuration it is [4]" in found
    unet.unlink()
    found = problems()
    assert f"unet/{unet.name} is not there any more" in found
    assert any("holds no diffusion_pytorch_model.safetensors" in line for line in found)


def test_a_flipped_byte_is_found(lorafleet, home, capsys):
    path = add_toy("reds", home).files("vae").paths[0]
    with path.open("r+b") as file:
        file.seek(os.path.getsize(path) - 1)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert lorafleet("bases", "verify", "reds") == 1
    assert "is not what it was when the base was added" in capsys.readouterr().err


def test_rm_removes_what_was_added_and_nothing_else(lorafleet, home, tmp_path, capsys):
    add_toy("reds", home)
    vae = other_vae(tmp_path)
    assert lorafleet("bases", "add", "reds", "--vae", vae, "--name", "sharp") == 0
    assert lorafleet("bases", "rm", "reds") == 0
    assert "removed reds: 0.01 GiB" in capsys.readouterr().out
    assert sorted(path.name for path in home.bases.iterdir()) == [".lock", "sharp"]
    assert lorafleet("bases", "verify", "sharp") == 0
    assert (vae / "config.json").is_file()
    capsys.readouterr()
    for name in ("reds", "toy-sdxl"):
        assert lorafleet("bases", "rm", name) == 3
        assert f"no base '{name}' was added to {home.bases}; added are: sharp" in capsys.readouterr().err
    assert find_base("toy-sdxl").resolution == 32
