"""Imported files become bundles and versions like any other, once, and their cards say what they are."""

from __future__ import annotations

import json

import pytest
import torch
from base_files import add_toy
from lora_files import BASE, CONVOLUTIONS, assert_same, own, pairs, stock, written
from safetensors.torch import load_file

from lorafleet.bundle.adapter import load_adapter
from lorafleet.bundle.bundle import EMBEDDINGS, README, read_bundle
from lorafleet.errors import BundleError
from lorafleet.formats.export import kohya_tensors
from lorafleet.formats.importing import Import, identity, make_bundle
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet.targets import PRESETS, TEXT_ENCODER
from lorafleet.tracking import MlflowRegistry, MlflowTracking


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(BASE)


def test_dora_of_pefts_is_kept(warm, tmp_path):
    tensors = pairs(warm, (*PRESETS["attn"], *CONVOLUTIONS), text=True, dora=True)
    _, bundle = own(written(tmp_path, tensors), warm, tmp_path)
    found = bundle.weights()
    assert bundle.card.dora
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


def test_half_precision_stays_where_the_scale_leaves_it_exact(warm, tmp_path):
    for scale, dtype in ((0.125, torch.float16), (0.3, torch.float32)):
        tensors = kohya_tensors({key: (t * 512).round().half() / 512 for key, t in pairs(warm).items()}, scale)
        _, bundle = own(written(tmp_path / str(scale), tensors), warm, tmp_path / str(scale))
        assert {tensor.dtype for key, tensor in bundle.weights().items() if "lora_B" in key} == {dtype}


def test_the_card_says_what_it_is(warm, tmp_path):
    tensors = pairs(warm, (*PRESETS["attn+ff"], *CONVOLUTIONS), text=True, ranks=(4,))
    file = written(tmp_path, tensors)
    _, bundle = own(file, warm, tmp_path, words="pixel art style", licence="openrail++")
    card = read_bundle(bundle.path, BASE).card
    assert sorted(card.targets) == sorted((*PRESETS["attn+ff"], *CONVOLUTIONS))
    assert (card.rank, card.text_encoder_rank, card.scale, card.dora) == (4, 4, 1.0, False)
    assert [(one.trigger, one.abstraction, one.text) for one in card.triggers] == [
        ("<style>", "TOK", "pixel art style")
    ]
    assert {key: card.recipe[key] for key in ("imported_from", "format")} == {
        "imported_from": "style.safetensors", "format": "diffusers",
    }  # fmt: skip
    assert (card.images, card.steps, card.licence, card.job_id) == (0, 0, "openrail++", bundle.path.name)
    readme = (bundle.path / README).read_text()
    assert "license: openrail++" in readme
    assert "not trained here" in readme
    assert '"<style>, a house by the sea" --adapter style' in readme


def test_text_encoders_alone(warm, tmp_path):
    tensors = {key: t for key, t in pairs(warm, text=True).items() if key.startswith(f"{TEXT_ENCODER}.")}
    file = written(tmp_path, kohya_tensors(tensors, 0.5))
    deltas, bundle = own(file, warm, tmp_path)
    assert_same(deltas, stock(file))
    assert (bundle.card.rank, bundle.card.text_encoder_rank, bundle.card.targets) == (4, 4, ())


def vectors(warm, rows=2):
    draws = torch.Generator().manual_seed(9)
    one, two = (torch.randn(rows, width, generator=draws) for width in warm.prompts.widths)
    return {"clip_l": one, "clip_g": two}


def test_learned_tokens_of_an_embedding_file(warm, tmp_path):
    learned = vectors(warm)
    file = written(tmp_path, learned, name="token.safetensors")
    _, bundle = own(written(tmp_path, pairs(warm)), warm, tmp_path, embeddings=file)
    assert bundle.card.triggers[0].tokens == (0, 1)
    found = load_file(bundle.path / EMBEDDINGS)
    assert all(torch.equal(found[key], learned[key]) for key in ("clip_l", "clip_g"))


def test_pickles_are_not_opened(tmp_path):
    ran = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return ran.touch, ()

    torch.save({"lora_unet_conv_in.alpha": Bomb()}, tmp_path / "style.safetensors")
    with pytest.raises(BundleError, match=r"not a safetensors file .* a pickle can run programs"):
        make_bundle(Import(file=tmp_path / "style.safetensors", name="style", base="toy-sdxl"), tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize(
    "tensors",
    [{"emb_params": torch.ones(2, 48)}, {"clip_l": torch.ones(2, 48), "clip_g": torch.ones(1, 64)}],
    ids=["Stable Diffusion 1", "uneven"],
)
def test_embeddings_for_something_else(warm, tmp_path, tensors):
    file, other = written(tmp_path, pairs(warm)), written(tmp_path, tensors, name="token.safetensors")
    with pytest.raises(BundleError, match=r"token\.safetensors: .*give a textual inversion for SDXL"):
        make_bundle(Import(file=file, name="style", base="toy-sdxl", embeddings=other), tmp_path)


def test_the_command_registers_a_version_once(lorafleet, warm, tmp_path, capsys):
    file = written(tmp_path / "got", kohya_tensors(pairs(warm, text=True), 0.5), name="pixel.safetensors")
    asked = ("adapters", "import", file, "--name", "pixel", "--base", "toy-sdxl", "--words", "pixel art")
    assert lorafleet(*asked, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert {key: first[key] for key in ("name", "version", "aliases", "base", "triggers", "new")} == {
        "name": "pixel", "version": 1, "aliases": ["champion"], "base": "toy-sdxl", "triggers": ["<pixel>"],
        "new": True,
    }  # fmt: skip
    assert lorafleet(*asked, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {**first, "new": False}
    assert lorafleet(*asked[:-1], "8 bit") == 0  # other words are not the same adapter
    assert capsys.readouterr().out == "pixel@2\n"
    home = tmp_path / "home"
    tracking = MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
    experiment = tracking.client.get_experiment_by_name("imports")
    runs = tracking.client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert {run.data.tags["file"] for run in runs} == {"pixel.safetensors"}
    assert {len(run.data.tags["sha256"]) for run in runs} == {64}
    registry = MlflowRegistry(tracking.uri, home / "cache")
    found = registry.resolve("pixel", "1")
    assert load_adapter(read_bundle(found.path, BASE), warm).touches_text
    assert read_bundle(found.path).card.run_id == found.run_id

    assert lorafleet("adapters", "show", "pixel@1") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "imported from pixel.safetensors (kohya's format)" in told
    assert "trained on" not in told
    assert lorafleet("adapters", "ls", "--json") == 0
    assert [one["version"] for one in json.loads(capsys.readouterr().out)["adapters"]] == [2, 1]
    for to in ("kohya", "diffusers"):
        assert lorafleet("adapters", "export", "pixel@1", "--format", to, "--out", tmp_path / to) == 0
    assert_same(stock(tmp_path / "kohya" / "loras" / "pixel.safetensors"), stock(file))


def test_an_interrupted_import_goes_on_in_its_run(lorafleet, warm, tmp_path, capsys):
    file, home = written(tmp_path, pairs(warm)), tmp_path / "home"
    tracking = MlflowTracking(f"sqlite:///{home / 'mlflow.db'}", home / "artifacts")
    job_id = identity(Import(file=file, name="pixel", base="toy-sdxl"), BASE)
    run_id = tracking.start_import("pixel", job_id, {})  # and there it ended
    for _ in range(2):
        assert lorafleet("adapters", "import", file, "--name", "pixel", "--base", "toy-sdxl") == 0
        assert tracking.client.get_run(run_id).info.status == "FINISHED"
        tracking.client.update_run(run_id, status="RUNNING")  # as if it had ended after registering
    assert capsys.readouterr().out == "pixel@1\npixel@1 (was there already)\n"
    assert [one.run_id for one in MlflowRegistry(tracking.uri, home / "cache").list()] == [run_id]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--name", "Pixel Art"), "name is 'Pixel Art'"),
        (("--words", "pixel", "--embeddings", "x.safetensors"), "words and embeddings both say"),
        (("--embeddings", "nowhere.safetensors"), "nowhere.safetensors: there is no such file"),
        (("--base", "nowhere"), "base 'nowhere' is not here"),
        (("--base", "models/sdxl/fp16"), "there is no folder"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_registered(lorafleet, warm, tmp_path, capsys, more, says):
    file = written(tmp_path, pairs(warm))
    assert lorafleet("adapters", "import", file, "--name", "pixel", "--base", "toy-sdxl", *more) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "home" / "bundles").exists()


def test_a_base_that_was_added_with_another_prediction_is_another_import(warm, tmp_path, monkeypatch):
    """Its weights are the same, and the same file on both is two adapters."""
    monkeypatch.setenv("LORAFLEET_HOME", str(tmp_path / "home"))
    bases = [add_toy("noise", Home.from_environment()), add_toy("speed", Home.from_environment(), "v")]
    file = written(tmp_path, pairs(warm))
    made = [make_bundle(Import(file=file, name="x", base=base.name), tmp_path / base.name) for base in bases]
    assert [one.card.prediction for one in made] == ["epsilon", "v_prediction"]
    assert made[0].card.job_id != made[1].card.job_id
    readme = made[0].files[README].decode()
    assert "The base has its own: `unknown` (added from noise.safetensors)." in readme
