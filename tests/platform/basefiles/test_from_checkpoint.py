"""A checkpoint of one file becomes a base that is the same, to the bit, as the folder that it was written from."""

from __future__ import annotations

import json

import pytest
import torch
from base_files import TOYS, add_toy, altered, pictures
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lorafleet.basefiles.architectures import SDXL
from lorafleet.basefiles.checkpoint import PREFIXES, read_checkpoint
from lorafleet.basefiles.convert import fitted
from lorafleet.basefiles.family import family_of
from lorafleet.basefiles.from_checkpoint import add_checkpoint
from lorafleet.bases import SHIPPED, find_base
from lorafleet.errors import BaseModelError
from lorafleet.home import Home
from lorafleet.loaded import LoadedBase
from lorafleet.numerics.objectives import Timesteps
from original_layout import original_tensors, renamed, write_original
from sdxl_files import sdxl_folder
from sdxl_random import UNET_PARAMETERS

UNET, ONE, TWO, VAE = PREFIXES["unet"], PREFIXES["text_encoder"], PREFIXES["text_encoder_2"], PREFIXES["vae"]


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.mark.parametrize("toy", TOYS)
def test_it_is_the_base_that_it_was_written_from(toy, home):
    source, added = find_base(toy), add_toy("mine", home, toy=toy)
    assert added.fingerprint == source.fingerprint
    assert (added.prediction, added.resolution, added.vae_factor) == (source.prediction, 32, 4)
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        one, two = (load_file(base.files(part).paths[0]) for base in (added, source))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)
    assert torch.equal(pictures(added), pictures(source))


def test_numbers_keep_their_dtypes(home, tmp_path):
    name = UNET + "out.2.bias"
    mixed = {name: torch.randn(4), VAE + "decoder.conv_out.bias": torch.zeros(3, dtype=torch.bfloat16)}
    base = add_checkpoint(altered(tmp_path, mixed), "mixed", home).base
    unet, vae = (load_file(base.files(part).paths[0]) for part in ("unet", "vae"))
    assert torch.equal(unet["conv_out.bias"], mixed[name])
    assert vae["decoder.conv_out.bias"].dtype == torch.bfloat16
    assert unet["conv_out.weight"].dtype == torch.float16


@pytest.mark.parametrize(("prediction", "endless"), [("v", False), ("v-zero-snr", True)])
def test_markers_say_that_it_predicts_v_and_where_its_noise_ends(home, prediction, endless):
    base = add_toy("mine", home, prediction)
    assert base.prediction == "v_prediction"
    assert Timesteps.of(base.scheduler).sigmas[-1].isinf() == endless
    assert base.scheduler["timestep_spacing"] == ("trailing" if endless else "leading")
    assert base.record is not None
    assert base.record.prediction.startswith(f"{prediction} (")
    made = pictures(base, seeds=(1,))
    assert made.isfinite().all()
    assert not torch.equal(made, pictures(find_base("toy-sdxl"), seeds=(1,)))


SAYS = [
    ({}, {}, None, "epsilon"),
    ({}, {"modelspec.prediction_type": "v"}, None, "v"),
    ({}, {"modelspec.predict_key": "epsilon"}, None, "epsilon"),
    ({}, {"prediction_type": "v_prediction"}, None, "v"),
    ({}, {"modelspec.prediction_type": "epsilon"}, "v-zero-snr", "v-zero-snr"),
    ({"v_pred": torch.zeros(0)}, {"modelspec.prediction_type": "epsilon"}, None, "v"),
    ({"v_pred": torch.zeros(0)}, {}, "v", "v"),
    ({"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}, {}, None, "edm"),
    ({}, {}, "edm", "edm"),
]


@pytest.mark.parametrize(("tensors", "metadata", "asked", "kind"), SAYS)
def test_tensors_go_before_the_option_and_that_before_metadata(tmp_path, tensors, metadata, asked, kind):
    assert family_of(read_checkpoint(altered(tmp_path, tensors, metadata)), asked).kind == kind


@pytest.mark.parametrize(
    ("tensors", "metadata", "asked", "words"),
    [
        ({"v_pred": torch.zeros(0)}, {}, "epsilon", "predicts v (its tensor v_pred says so), and --prediction is eps"),
        ({"ztsnr": torch.zeros(0)}, {}, None, "has the marker tensors ztsnr; known are"),
        ({"edm_mean": torch.zeros(4)}, {}, "edm", "has the marker tensors edm_mean"),
        ({}, {"modelspec.prediction_type": "sample"}, None, "modelspec.prediction_type 'sample'; allowed are epsilon"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, tensors, metadata, asked, words):
    with pytest.raises(BaseModelError) as refused:
        family_of(read_checkpoint(altered(tmp_path, tensors, metadata)), asked)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_playgrounds_statistics_are_known_where_only_the_option_says_it(tmp_path, home):
    base = add_checkpoint(altered(tmp_path, {}), "mine", home, "edm").base
    vae = base.config("vae")
    assert base.prediction == "edm"
    assert vae["scaling_factor"] == 0.5
    assert [round(x, 4) for x in vae["latents_mean"]] == [-1.6574, 1.886, -1.383, 2.5155]


def test_metadata_says_the_licence_the_author_and_the_side(tmp_path, home):
    told = {"modelspec.license": "CC0", "modelspec.title": "Reds", "modelspec.author": "Ann",
            "modelspec.resolution": "64x64"}  # fmt: skip
    unused = (ONE + "text_model.embeddings.position_ids", TWO + "logit_scale", "model_ema.decay")
    file = altered(tmp_path, {name: torch.ones(1) for name in unused}, told)
    added = add_checkpoint(file, "mine", home)
    assert (added.base.licence, added.base.record.attribution) == ("CC0", "Reds by Ann")
    assert added.base.resolution == 64
    assert any("left out 1 tensors that belong to no part: model_ema.decay" in note for note in added.notes)
    assert add_checkpoint(file, "other", home, licence="mit").base.licence == "mit"


FIRST = UNET + "input_blocks.0.0.weight"
FOREIGN = {
    "Stable Diffusion 1": ({"cond_stage_model.transformer.x": torch.ones(1)}, "is of Stable Diffusion 1 or 2"),
    "refiner": ({"conditioner.embedders.0.model.x": torch.ones(1)}, "is of SDXL's refiner"),
    "CosXL": ({"edm_vpred.sigma_max": torch.ones(1)}, "is of CosXL"),
    "LoRA": ({"lora_unet_x.lora_up.weight": torch.ones(1)}, "lorafleet adapters import FILE"),
    "inpainting": ({FIRST: torch.ones(320, 9, 3, 3)}, "is [320, 9, 3, 3], an inpainting model"),
    "other architecture": ({FIRST: torch.ones(64, 4, 3, 3)}, "begins with [320, 4, 3, 3]"),
    "no beginning": ({FIRST: None}, "is not there"),
    "fp8": ({UNET + "out.2.bias": torch.zeros(4).to(torch.float8_e4m3fn)}, "is stored as F8_E4M3"),
    "a gap": ({UNET + "out.2.bias": None}, "has no conv_out.bias"),
    "a gap where diffusers looks": ({UNET + "label_emb.0.0.weight": None}, "lacks 'label_emb.0.0.weight'"),
    "another shape": ({UNET + "out.2.bias": torch.zeros(5)}, "conv_out.bias of its unet"),
    "statistics of nothing": ({"edm_mean": torch.zeros(4), "edm_std": torch.zeros(4)}, "edm_std [0.0, 0.0, 0.0, 0.0]"),
    "statistics of three": ({"edm_mean": torch.zeros(3), "edm_std": torch.ones(3)}, "of 4 latent channels each"),
    "one more": ({VAE + "encoder.more.weight": torch.zeros(5)}, "its vae has 133 tensors"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_base_is_refused_by_name_and_leaves_nothing(kind, tmp_path, home):
    change, words = FOREIGN[kind]
    with pytest.raises(BaseModelError) as refused:
        add_checkpoint(altered(tmp_path, change), "mine", home)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {path.name for path in home.bases.glob("*")} <= {".lock"}


@pytest.mark.parametrize("part", PREFIXES)
def test_a_part_that_is_missing_is_named(part, tmp_path):
    tensors = original_tensors(find_base("toy-sdxl"))
    gone = {name: None for name in tensors if name.startswith(PREFIXES[part])}
    with pytest.raises(BaseModelError, match=rf"lacks {part} \({PREFIXES[part]}"):
        read_checkpoint(altered(tmp_path, gone))


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(BaseModelError, match=r"is no \.safetensors file"):
        read_checkpoint(tmp_path / "model.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(BaseModelError, match="cannot read"):
        read_checkpoint(tmp_path / "cut.safetensors")


def test_tokenizers_are_clips_wherever_they_lie(tmp_path, home):
    file, clip = write_original(find_base("toy-sdxl"), tmp_path / "a.safetensors"), tmp_path / "clip"
    model = json.loads((SHIPPED["toy-sdxl"] / "tokenizer" / "tokenizer.json").read_text())["model"]
    clip.mkdir()
    (clip / "vocab.json").write_text(json.dumps(model["vocab"]))
    with pytest.raises(BaseModelError, match=r"holds no tokenizers; it needs the folders tokenizer and tokenizer_2"):
        add_checkpoint(file, "mine", home, tokenizers=clip)
    (clip / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    added = add_checkpoint(file, "mine", home, tokenizers=clip).base
    assert added.record.tokenizers == str(clip)
    ours, theirs = (LoadedBase.load(base).prompts for base in (added, find_base("toy-sdxl")))
    for text in ("a photo of a red dog!", "zebra <|endoftext|> crossing, été"):
        for one, two in zip(ours.token_ids([text]), theirs.token_ids([text]), strict=True):
            assert torch.equal(one, two)
    model["vocab"]["zebra</w>"] = len(model["vocab"])
    (clip / "vocab.json").write_text(json.dumps(model["vocab"]))
    with pytest.raises(BaseModelError, match=r"have 675 tokens, and text_encoder has 674"):
        add_checkpoint(file, "more", home, tokenizers=clip)


def test_without_tokenizers_it_is_said_what_to_fetch(tmp_path, home, monkeypatch):
    from lorafleet.basefiles.find_tokenizers import find_tokenizers

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BaseModelError) as refused:
        find_tokenizers(None, SDXL, home)
    assert "hf download openai/clip-vit-large-patch14 vocab.json merges.txt" in str(refused.value)
    assert "--tokenizers FOLDER" in str(refused.value)


def test_all_of_sdxl_fits(tmp_path):
    """Names and shapes of the real architecture, without weights."""
    folder = sdxl_folder(tmp_path / "sdxl")
    parts = {part: {name: torch.empty(t.shape, device="meta") for name, t in folder.tensors(part).items()}
             for part in PREFIXES}  # fmt: skip
    tensors = renamed(parts, folder)
    assert len(tensors) == 2515 - 2  # sd_xl_base_1.0.safetensors has position_ids and logit_scale too
    one, two = (CLIPTextConfig(**SDXL.config(part)) for part in ("text_encoder", "text_encoder_2"))
    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel.from_config(SDXL.config("unet")), "text_encoder": CLIPTextModel(one),
            "text_encoder_2": CLIPTextModelWithProjection(two), "vae": AutoencoderKL.from_config(SDXL.config("vae")),
        }  # fmt: skip
    assert modules["unet"].num_parameters() == UNET_PARAMETERS
    for part, module in modules.items():
        held = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIXES[part])}
        assert fitted(part, held, module, tmp_path).keys() == module.state_dict().keys()
