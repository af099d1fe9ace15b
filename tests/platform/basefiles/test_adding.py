"""A base is added whole, once, under a name of its own, or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from base_files import add_toy
from safetensors.torch import save_file

from lorafleet.basefiles.adding import Facts, add_base
from lorafleet.basefiles.from_checkpoint import add_checkpoint
from lorafleet.bases import find_base
from lorafleet.errors import BaseModelError
from lorafleet.home import Home
from original_layout import write_original


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def test_a_name_is_given_once_and_never_one_that_is_known(tmp_path, home):
    add_toy("mine", home)
    for name, words in (("mine", "lorafleet bases rm mine"), ("sdxl", "is known everywhere"), ("toy-sdxl", "is known")):
        with pytest.raises(BaseModelError, match=words):
            add_checkpoint(tmp_path / "mine.safetensors", name, home)


def test_a_failure_halfway_leaves_nothing(home):
    def write(folder):
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        add_base("mine", home, 0, write)
    assert [path.name for path in home.bases.iterdir()] == [".lock"]


def test_a_disk_that_is_too_small_is_refused_before(home):
    with pytest.raises(BaseModelError, match=r"GiB left, and the base takes 1048576\.0; make room, or"):
        add_base("mine", home, 2**50, lambda folder: Facts("", "", ""))


def test_what_a_kill_leaves_the_next_call_removes(home):
    program = """
import sys, time
from pathlib import Path
from lorafleet.basefiles.adding import add_base
from lorafleet.home import Home

def write(folder):
    (folder / "part").write_text("half")
    print("now", flush=True)
    time.sleep(60)

add_base("mine", Home(Path(sys.argv[1])), 0, write)
"""
    process = subprocess.Popen([sys.executable, "-c", program, home.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = [path for path in home.bases.iterdir() if path.is_dir()]
    assert len(left) == 1
    assert left[0].name.startswith(".mine.")
    with pytest.raises(BaseModelError, match="is not here"):
        find_base("mine", home=home)
    add_toy("mine", home)
    assert sorted(path.name for path in home.bases.iterdir()) == [".lock", "mine"]


def test_the_command_says_what_it_did_and_the_base_is_found_by_its_name(lorafleet, tmp_path, capsys, monkeypatch):
    file = write_original(find_base("toy-sdxl"), tmp_path / "reds v2.safetensors", "v-zero-snr")
    began = time.monotonic()
    assert lorafleet("bases", "add", file, "--name", "reds", "--licence", "mit", "--json") == 0
    took = time.monotonic() - began
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    base = find_base("reds")
    assert told == {
        "name": "reds", "prediction": "v_prediction", "resolution": 32, "licence": "mit", "path": str(base.path),
        "bytes": told["bytes"], "seconds": told["seconds"],
    }  # fmt: skip
    assert told["bytes"] == sum(path.stat().st_size for path in base.path.rglob("*") if path.is_file()) > 13_000_000
    assert 0 <= told["seconds"] <= took + 0.1
    assert "predicts v-zero-snr (its tensors v_pred and ztsnr say so)" in shown.err
    assert lorafleet("bases", "add", file, "--name", "Reds") == 2
    assert "small letters" in capsys.readouterr().err
    assert lorafleet("bases", "add", tmp_path / "none.safetensors", "--name", "none") == 2
    assert "is not there" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BaseModelError) as refused:
        find_base("reds v2.safetensors")
    assert f"lorafleet bases add '{file}' --name NAME" in str(refused.value)
    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(BaseModelError, match=r"Allowed: toy-sdxl, toy-playground, sdxl, playground-v2\.5, reds, a "):
        find_base("reads")
