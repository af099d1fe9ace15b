"""A base with another VAE: the same model in latents, other pixels, and only where the latents are the same."""

from __future__ import annotations

import json

import pytest
import torch
from base_files import add_toy, altered, other_vae, pictures
from safetensors.torch import load_file, save_file

from lorafleet.basefiles.from_checkpoint import add_checkpoint
from lorafleet.basefiles.from_folder import add_folder
from lorafleet.basefiles.other_vae import OwnVae, check_vae
from lorafleet.bases import Base, find_base
from lorafleet.errors import BaseModelError
from lorafleet.home import Home
from original_layout import original_tensors


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


def test_the_base_has_the_other_vae_and_everything_else_of_its_own(home, tmp_path):
    source = find_base("toy-sdxl")
    base = add_folder(source, "mine", home, str(other_vae(tmp_path))).base
    assert find_base("mine", home=home) == base
    assert base.fingerprint == source.fingerprint
    assert base.vae_fingerprint != source.vae_fingerprint
    assert base.scheduler == source.scheduler
    assert base.record.vae == str(tmp_path / "other vae")
    assert base.licence == "apache-2.0"
    made, before = pictures(base, (1,)), pictures(source, (1,))
    assert not torch.equal(made, before)
    assert (made - before).abs().mean() < 0.1


def test_nothing_is_copied_and_the_base_outlives_what_it_was_made_of(home, tmp_path):
    vae = other_vae(tmp_path)
    first = add_toy("first", home)
    second = add_folder(first, "second", home, str(vae)).base
    for path, own in ((first.files("unet").paths[0], second.files("unet").paths[0]),
                      (vae / "diffusion_pytorch_model.safetensors", second.files("vae").paths[0])):  # fmt: skip
        assert path.stat().st_ino == own.stat().st_ino
        path.unlink()
    assert pictures(second, (1,)).isfinite().all()
    assert second.record.origin == first.record.origin


def test_a_base_may_get_a_name_alone(home):
    source = find_base("toy-playground")
    base = add_folder(source, "mine", home).base
    assert (base.fingerprint, base.vae_fingerprint) == (source.fingerprint, source.vae_fingerprint)
    assert base.prediction == "edm"


def test_playground_is_refused_by_name(home, tmp_path):
    words = r"carries the mean and std of its latents .* as Playground v2\.5's does"
    vae = other_vae(tmp_path, "toy-playground", latents_mean=None, latents_std=None)
    with pytest.raises(BaseModelError, match=rf"base 'toy-playground' {words}"):
        add_folder(find_base("toy-playground"), "mine", home, str(vae))
    file = altered(tmp_path, {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)})
    with pytest.raises(BaseModelError, match=words):
        add_checkpoint(file, "mine", home, vae=str(vae))
    assert not list(home.bases.glob("[!.]*"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"scaling_factor": 0.18215}, r"AutoencoderKL with scaling_factor 0\.18215, and that of base 'toy-sdxl' is"),
        ({"latents_mean": [0.0] * 4}, "its latents are another model's"),
        ({"_class_name": "AutoencoderTiny"}, "is AutoencoderTiny"),
    ],
)
def test_a_vae_of_other_latents_is_refused(home, tmp_path, config, words):
    with pytest.raises(BaseModelError, match=words):
        add_folder(find_base("toy-sdxl"), "mine", home, str(other_vae(tmp_path, **config)))


def test_a_vae_of_another_shape_is_refused(home, tmp_path):
    vae = other_vae(tmp_path)
    file = vae / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "decoder.conv_in.bias": torch.zeros(3)}, file)
    with pytest.raises(BaseModelError, match=r"does not fit: its decoder\.conv_in\.bias is \(3,\)"):
        add_folder(find_base("toy-sdxl"), "mine", home, str(vae))
    for asked in (tmp_path, "nobody/nothing", "a b c"):
        with pytest.raises(BaseModelError, match="is no folder with a VAE's config"):
            add_folder(find_base("toy-sdxl"), "mine", home, str(asked))


def test_attention_as_it_was_once_called_fits(tmp_path):
    now, once = "encoder.mid_block.attentions.0.to_q.weight", "encoder.mid_block.attentions.0.query.weight"
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.13025}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, shape in ((once, (8, 8)), (once, (8, 8, 1, 1)), (now, (8, 8))):
        save_file({name: torch.zeros(shape)}, tmp_path / "diffusion_pytorch_model.safetensors")
        check_vae(tmp_path, OwnVae("it", config, {now: (8, 8)}))
    save_file({once: torch.zeros(8, 9)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(BaseModelError, match="does not fit"):
        check_vae(tmp_path, OwnVae("it", config, {now: (8, 8)}))


def test_a_checkpoint_without_a_vae_takes_one(home, tmp_path):
    vae = other_vae(tmp_path)
    gone = {name: None for name in original_tensors(find_base("toy-sdxl")) if name.startswith("first_stage_model.")}
    file = altered(tmp_path, gone)
    with pytest.raises(BaseModelError, match="give a VAE with --vae FOLDER"):
        add_checkpoint(file, "mine", home)
    base = add_checkpoint(file, "mine", home, vae=str(vae)).base
    named = add_folder(find_base("toy-sdxl"), "named", home, str(vae)).base
    assert base.vae_fingerprint == named.vae_fingerprint
    assert torch.equal(pictures(base, (1,)), pictures(named, (1,)))


def test_the_command_takes_a_base_and_a_vae(lorafleet, tmp_path, capsys):
    vae = other_vae(tmp_path)
    assert lorafleet("bases", "add", "toy-sdxl", "--vae", vae, "--name", "sharp") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("sharp: 0.01 GiB in ")
    assert f"the VAE of {vae}" in shown.err
    assert lorafleet("bases", "add", "sharp", "--prediction", "v", "--name", "other") == 2
    assert "--prediction and --tokenizers are for these alone" in capsys.readouterr().err
    assert isinstance(find_base("sharp"), Base)
