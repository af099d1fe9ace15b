"""The list of forgotten contents: hashes only, and the same adapter is known again in other programs' files."""

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lora_files import BASE, own, pairs, written
from safetensors.torch import load_file, save_file

from lorafleet.bundle.bundle import WEIGHTS
from lorafleet.formats.export import export_diffusers, export_kohya
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet.removal.forgotten import list_of, read_forgotten, remember_forgotten, tensors_digest


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(BASE)


def test_the_list_holds_hashes_and_grows(tmp_path):
    home = Home(tmp_path)
    assert read_forgotten(home) == frozenset()
    for hashes in (["b" * 64], ["a" * 64, "b" * 64], []):
        remember_forgotten(home, hashes)
    assert read_forgotten(home) == {"a" * 64, "b" * 64}
    assert re.fullmatch(r"([0-9a-f]{64}\n)+", list_of(home).read_text())


def test_an_adapter_is_known_again_in_the_files_of_other_programs(warm, tmp_path):
    _, bundle = own(written(tmp_path, pairs(warm)), warm, tmp_path)
    digest = tensors_digest(bundle.path / WEIGHTS)
    for export in (export_kohya, export_diffusers):
        files = [file for file in export(bundle, tmp_path / export.__name__) if file.suffix == ".safetensors"]
        assert [tensors_digest(file) for file in files] == [digest]
    tensors = load_file(bundle.path / WEIGHTS)
    some = next(iter(tensors))
    save_file({**tensors, some: tensors[some] + 1e-3}, tmp_path / "other.safetensors")
    assert tensors_digest(tmp_path / "other.safetensors") != digest


@given(st.binary(max_size=64))
def test_what_is_no_safetensors_file_has_no_digest(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("odd") / "odd.safetensors"
    file.write_bytes(data)
    assert tensors_digest(file) is None


def test_an_import_of_forgotten_weights_is_refused_unless_asked(warm, tmp_path, lorafleet, capsys):
    file = written(tmp_path, pairs(warm))
    remember_forgotten(Home(tmp_path / "home"), [tensors_digest(file)])
    tensors = {f"{key}": tensor.clone() for key, tensor in reversed(load_file(file).items())}
    save_file(tensors, tmp_path / "renamed.safetensors", {"title": "harmless"})
    words = ("adapters", "import", tmp_path / "renamed.safetensors", "--name", "style", "--base", BASE.name)
    assert lorafleet(*words) == 2
    assert "forgotten here; leave it out, or take it all the same with --forgotten-too" in capsys.readouterr().err
    assert lorafleet("adapters", "ls", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"adapters": []}
    assert lorafleet(*words, "--forgotten-too") == 0
    save_file({"unet.a.alpha": torch.ones(())}, tmp_path / "alphas.safetensors")
    assert tensors_digest(tmp_path / "alphas.safetensors") is None
