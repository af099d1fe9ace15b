"""A training comes to the same deltas whichever program wrote its file, and nothing in a file is left out unsaid."""

from __future__ import annotations

import json
import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.utils import convert_all_state_dict_to_peft, convert_state_dict_to_kohya
from hypothesis import given
from hypothesis import strategies as st
from lora_files import BASE, CONVOLUTIONS, assert_same, imported, own, pairs, sgm_name, written
from peft import LoraConfig, get_peft_model

from lorafleet.bundle.bundle import README
from lorafleet.errors import BundleError
from lorafleet.formats.export import kohya_tensors
from lorafleet.formats.spellings import Spellings
from lorafleet.loaded import LoadedBase
from lorafleet.targets import PARTS, PRESETS, UNET

SCALE = 0.625
WAYS = {".lora_A.": ".lora_down.", ".lora_B.": ".lora_up."}
TEXT = {"text_encoder.": "clip_l", "text_encoder_2.": "clip_g"}
EVERY_KIND = (*PRESETS["attn+ff"], *CONVOLUTIONS)


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(BASE)


@pytest.fixture(scope="module")
def base_model():
    return UNet2DConditionModel.from_pretrained(BASE.path, subfolder="unet")


def renamed(tensors, unet, text="text_encoders.{}.transformer.", kohya=True, alpha=False):
    """Keys of PEFT's names in other programs': `unet` of a layer's name, `text` of an encoder's, and alphas."""
    found = {}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        layer, way = re.fullmatch(r"(.+)\.lora_([AB])\.weight", rest).groups()
        name = unet(layer) if part == UNET else text.format(TEXT[f"{part}."]) + layer
        found[f"{name}.lora_{way}.weight"] = tensor
        if alpha and way == "A":
            found[f"{name}.alpha"] = torch.tensor(SCALE * len(tensor))
    for old, new in WAYS.items() if kohya else ():
        found = {key.replace(old, new): tensor for key, tensor in found.items()}
    return found


def processors(tensors):
    return {
        re.sub(r"\.(to_\w+?)(\.0)?\.lora_([AB])\.", r".processor.\1_lora.\3.", key.removeprefix("unet."))
        .replace("_lora.A.", "_lora.down.").replace("_lora.B.", "_lora.up."): tensor
        for key, tensor in tensors.items()
    }  # fmt: skip


def advanced(tensors):
    """As diffusers' advanced script trains text encoders, and turns it all into A1111's format."""
    theirs = {"unet": (".lora.down.", ".lora.up."), "text": (".lora_linear_layer.down.", ".lora_linear_layer.up.")}
    found = {}
    for key, tensor in tensors.items():
        down, up = theirs["unet" if key.startswith("unet.") else "text"]
        found[key.replace(".lora_A.", down).replace(".lora_B.", up)] = tensor
    return convert_state_dict_to_kohya(convert_all_state_dict_to_peft(found))


def sgm(layer):
    return sgm_name(layer, 1)


def everything(warm):
    return pairs(warm, EVERY_KIND, text=True)


def attention(warm):
    return pairs(warm, text=True)


FILES = {  # the training, how the file is made of it, and the scale that the file gives it
    "ComfyUI": (everything, lambda t: renamed(t, lambda n: f"diffusion_model.{sgm(n)}"), 1.0),
    "ComfyUI of a checkpoint": (everything, lambda t: renamed(t, lambda n: f"model.diffusion_model.{sgm(n)}"), 1.0),
    "OneTrainer": (everything, lambda t: renamed(t, lambda n: f"unet.{sgm(n)}", "{}.", alpha=True), SCALE),
    "OneTrainer for ComfyUI": (
        everything, lambda t: renamed(t, lambda n: f"diffusion_model.{sgm(n)}", kohya=False, alpha=True), SCALE,
    ),
    "underscores behind another prefix": (
        everything, lambda t: renamed(t, lambda n: "diffusion_model_" + sgm(n).replace(".", "_")), 1.0,
    ),
    "diffusers' advanced script for A1111": (attention, advanced, 1.0),
    "PEFT with the adapter's name": (
        everything,
        lambda t: {re.sub(r"(lora_[AB])\.", r"\1.default_0.", key): tensor for key, tensor in t.items()}, 1.0,
    ),
    "a UNet without its part": (
        lambda warm: pairs(warm, EVERY_KIND),
        lambda t: {key.removeprefix("unet."): tensor for key, tensor in t.items()}, 1.0,
    ),
    "cog-sdxl": (pairs, processors, 1.0),
    "PEFT's prefix within a part": (
        pairs, lambda t: {key.replace("unet.", "unet.base_model.model."): tensor for key, tensor in t.items()}, 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("program", FILES)
def test_a_file_of_another_program_has_the_deltas_of_diffusers_file_of_the_same_training(warm, tmp_path, program):
    train, spelt, scale = FILES[program]
    tensors = train(warm)
    file = spelt(tensors)
    assert not file.keys() & tensors.keys()
    deltas, bundle = own(written(tmp_path, file), warm, tmp_path)
    scaled = {key: tensor * scale if "lora_B" in key else tensor for key, tensor in tensors.items()}
    expected, _ = own(written(tmp_path / "diffusers", scaled), warm, tmp_path / "diffusers")
    assert_same(deltas, expected)
    assert bundle.card.notes == ()


@pytest.mark.parametrize("how", ["plain", "patterns", "rslora", "dora"])
def test_what_peft_itself_saves_of_a_unet(base_model, warm, tmp_path, how):
    """With adapter_config.json beside it; PEFT's own deltas are the oracle."""
    more = {
        "plain": {},
        "patterns": {
            "rank_pattern": {"attn1.to_k": 2, "mid_block.attentions.0.transformer_blocks.0.attn2.to_q": 7},
            "alpha_pattern": {"to_v": 3, "^mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 5},
        },
        "rslora": {"use_rslora": True},
        "dora": {"use_dora": True},
    }[how]
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v"], **more)
    model = get_peft_model(base_model, config)
    model.save_pretrained(tmp_path / "saved")
    layers = {
        (UNET, name.removeprefix("base_model.model.")): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    model.unload()
    deltas, bundle = own(tmp_path / "saved" / "adapter_model.safetensors", warm, tmp_path)
    assert_same(deltas, layers)
    assert (bundle.card.recipe["format"], bundle.card.notes, bundle.card.dora) == ("PEFT", (), how == "dora")


def peft_saved(warm, folder, **config):
    tensors = {key.replace("unet.", "base_model.model."): tensor for key, tensor in pairs(warm).items()}
    file = written(folder, tensors, name="adapter_model.safetensors")
    if config:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config))
    return file


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; only LORA is read"),
        (
            {"init_lora_weights": "pissa_niter_16"},
            "init_lora_weights is 'pissa_niter_16', which changed the base's own",
        ),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"rank_pattern": {r".*\.to_k": 4}}, r"the pattern '.*\\.*to_k' is more than a layer's name; .* write out"),
        ({"alpha_pattern": {"(a*)*b" + "a" * 4000: 4}}, "regular expressions of a file are not run"),
        ({"r": 8}, "has rank 4, PEFT's configuration 8"),
        ({"r": 0}, "r is 0"),
    ],
)
def test_what_pefts_configuration_says_and_is_not_read_is_refused_by_name(warm, tmp_path, config, says):
    with pytest.raises(BundleError, match=says):
        imported(peft_saved(warm, tmp_path, **config), tmp_path / "bundles")


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 200_000, " " * (2**20 + 1)])
def test_a_configuration_that_is_none(warm, tmp_path, text):
    file = peft_saved(warm, tmp_path)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(BundleError, match=r"no JSON object|larger than"):
        imported(file, tmp_path / "bundles")


def test_pefts_own_file_without_its_configuration_says_which_scale_it_gets(warm, tmp_path):
    file = peft_saved(warm, tmp_path)
    made = imported(file, tmp_path / "bundles")
    assert made.card.notes[0].startswith("no adapter_config.json lies beside adapter_model.safetensors")
    with_config = imported(peft_saved(warm, tmp_path, lora_alpha=6), tmp_path / "bundles")
    assert with_config.card.job_id != made.card.job_id  # another scale is another adapter
    assert with_config.card.notes == ()


def test_a_configuration_beside_a_file_that_is_not_pefts_is_not_its(warm, tmp_path):
    peft_saved(warm, tmp_path, lora_alpha=400)
    tensors = pairs(warm)
    deltas, _ = own(written(tmp_path, tensors), warm, tmp_path)
    for (_, layer), delta in deltas.items():
        A, B = (tensors[f"unet.{layer}.lora_{k}.weight"] for k in "AB")
        torch.testing.assert_close(delta, B @ A)


def test_a_text_encoder_that_pefts_file_does_not_name(warm, tmp_path):
    tensors = {key: t for key, t in pairs(warm, text=True).items() if key.startswith("text_encoder.")}
    file = written(tmp_path, {key.replace("text_encoder.", "base_model.model."): t for key, t in tensors.items()})
    with pytest.raises(BundleError, match=r"does not say which of SDXL's two text encoders it is for; save it with"):
        imported(file, tmp_path)


def test_a_scale_of_its_own_stands_for_alpha_and_rank_and_is_told(warm, tmp_path):
    tensors = pairs(warm)
    file = kohya_tensors(tensors, 0.5)
    first, second, *_ = [key.removesuffix(".alpha") for key in file if key.endswith(".alpha")]
    file |= {f"{first}.scale": torch.tensor(0.75), f"{second}.scale": torch.tensor(0.5)}  # the second: alpha / rank
    deltas, bundle = own(written(tmp_path, file), warm, tmp_path)
    plain, _ = own(written(tmp_path / "plain", kohya_tensors(tensors, 0.5)), warm, tmp_path / "plain")
    changed = {part_layer for part_layer in deltas if not torch.equal(deltas[part_layer], plain[part_layer])}
    assert {("lora_unet_" + layer.replace(".", "_")) for _, layer in changed} == {first}
    (part_layer,) = changed
    torch.testing.assert_close(deltas[part_layer], plain[part_layer] * 1.5)
    assert bundle.card.notes == (
        f"'{first}.scale' stands in place of alpha / rank, as A1111 reads it; other programs do not",
    )


def test_keys_that_mean_nothing_are_left_out_by_name_and_too_many_are_refused(lorafleet, warm, tmp_path, capsys):
    tensors = kohya_tensors(pairs(warm), 0.5)
    extra = {"lora_metadata": torch.ones(1), "text_encoder.text_model.embeddings.position_ids": torch.arange(77)}
    file = written(tmp_path, {**tensors, **extra})
    command = ("adapters", "import", file, "--name", "style", "--base", "toy-sdxl")
    assert lorafleet(*command, "--json") == 0
    told = capsys.readouterr()
    assert sorted(json.loads(told.out)["notes"]) == [
        f"{k!r} belongs to no layer and is left out" for k in sorted(extra)
    ]
    assert all(f"note: {key!r} belongs to no layer" in told.err for key in extra)
    assert lorafleet("adapters", "show", "style") == 0
    assert "'lora_metadata' belongs to no layer" in capsys.readouterr().out
    plain = imported(written(tmp_path / "plain", tensors), tmp_path / "b").weights()
    assert imported(file, tmp_path / "b").weights().keys() == plain.keys()
    assert "\n* 'lora_metadata' belongs" in imported(file, tmp_path / "b").files[README].decode()
    with pytest.raises(BundleError, match=r"17 keys belong to no layer, 'step00' and 'step01' among them"):
        imported(written(tmp_path, tensors | {f"step{i:02}": torch.ones(1) for i in range(17)}), tmp_path)


PIECES = (
    "lora_unet", "unet", "base_model.model", "text_encoder", "te2", "input_blocks", "mid_block", "0", "1", "attentions",
    "transformer_blocks", "attn1", "to_q", "lora_A", "lora_down", "default", "weight", "alpha", "scale", "bundle_emb",
    "clip_l", "position_ids", "x",
)  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=9), st.sampled_from("._"))
def test_every_key_is_bound_refused_by_name_or_left_out(base_names, pieces, joint):
    key = joint.join(pieces)
    try:
        named, refused = base_names.read(key), ""
    except BundleError as problem:
        named, refused = None, str(problem)
    assert not refused or repr(key) in refused
    assert named is None or named.part_layer[0] in PARTS
    assert named or refused or "." not in key or key.endswith(".position_ids")


@pytest.fixture(scope="module")
def base_names(warm):
    return Spellings(warm, "style.safetensors")


def test_no_part_of_a_name_is_guessed_at(warm, tmp_path):
    """What names a part or a layer and is not understood might change pictures."""
    for key in ("lora_unet_conv_in_lora_up_weight", "conv_in.weight", "lora_controlnet_mid.lora_up.weight"):
        file = written(tmp_path, kohya_tensors(pairs(warm), 0.5) | {key: torch.ones(1)})
        with pytest.raises(BundleError, match=re.escape(repr(key))):
            imported(file, tmp_path / "b")
