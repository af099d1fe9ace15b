"""Every spelling comes to the very weight deltas that stock diffusers reads, and what has none is refused by name."""

from __future__ import annotations

import json
import re

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from lora_files import BASE, CONVOLUTIONS, assert_same, own, pairs, sgm_name, stock, written
from transformers import CLIPTextConfig

import sdxl_random
from lorafleet.bases import Base
from lorafleet.bundle.bundle import WEIGHTS, read_bundle
from lorafleet.errors import BundleError
from lorafleet.formats.export import kohya_tensors
from lorafleet.formats.importing import Import, make_bundle, shape_of
from lorafleet.formats.lora_files import read_lora
from lorafleet.loaded import LoadedBase
from lorafleet.targets import PRESETS, UNET, select

Q = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(BASE)


def old_spelling(tensors):
    """As diffusers' scripts wrote before PEFT: processors, and q, k, v and out of the text encoders by other names."""
    found = {}
    for key, tensor in tensors.items():
        for way, new in (("down", "A"), ("up", "B")):
            key = re.sub(rf"\.to_(q|k|v|out)(\.0)?\.lora_{new}\.", rf".processor.to_\1_lora.{way}.", key)
            key = re.sub(rf"\.(q|k|v|out)_proj\.lora_{new}\.", rf".to_\1_lora.{way}.", key)
        found[key] = tensor
    return found


FILES = {  # by hand or by diffusers' own functions, and as far as stock diffusers reads them
    "PEFT's names": lambda warm: (pairs(warm, (*PRESETS["attn"], *CONVOLUTIONS), text=True), None),
    "alpha in the metadata": lambda warm: (
        pairs(warm),
        {"unet.r": 4, "unet.lora_alpha": 6, "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0"]},
    ),
    "patterns and rslora in the metadata": lambda warm: (
        {
            key: tensor[:2] if "to_k.lora_A" in key else tensor[:, :2] if "to_k.lora_B" in key else tensor
            for key, tensor in pairs(warm).items()
        },
        {
            "unet.r": 4, "unet.lora_alpha": 6, "unet.target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
            "unet.rank_pattern": {"to_k": 2}, "unet.alpha_pattern": {"attn2.to_k": 5, "attn1.to_q": 1},
            "unet.use_rslora": True,
        },
    ),
    "diffusers' names": lambda warm: (convert_state_dict_to_diffusers(pairs(warm)), None),
    "diffusers' oldest names": lambda warm: (old_spelling(pairs(warm, text=True)), None),
    "kohya's names": lambda warm: (
        kohya_tensors(pairs(warm, (*PRESETS["attn+ff"], *CONVOLUTIONS), text=True), 0.625), None,
    ),
    "ranks of their own, one alpha": lambda warm: (
        {
            key: torch.tensor(2.0) if key.endswith(".alpha") else tensor
            for key, tensor in kohya_tensors(pairs(warm, text=True, ranks=(4, 2, 7)), 1.0).items()
        },
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_the_bundle_has_the_deltas_that_stock_diffusers_reads(warm, tmp_path, kind):
    tensors, metadata = FILES[kind](warm)
    file = written(tmp_path, tensors, metadata)
    deltas, bundle = own(file, warm, tmp_path)
    assert_same(deltas, stock(file))
    assert_same(deltas, stock(bundle.path / WEIGHTS))


def test_alphas_of_their_own_and_none(warm, tmp_path):
    """alpha / rank of each layer, 1 without; diffusers gives all attention the alpha that most layers have."""
    tensors = pairs(warm, ranks=(4, 2, 7))
    expected = {key.removesuffix(".lora_A.weight"): 1.0 for key in tensors if "lora_A" in key}
    file = kohya_tensors(tensors, 1.0)
    for i, (name, key) in enumerate(zip(expected, [key for key in file if key.endswith(".alpha")], strict=True)):
        del file[key]
        if i % 3:
            file[key] = torch.tensor(i)
            expected[name] = i / len(tensors[f"{name}.lora_A.weight"])
    deltas, bundle = own(written(tmp_path, file), warm, tmp_path)
    assert {read_bundle(bundle.path).card.rank, *(len(t) for k, t in bundle.weights().items() if "lora_A" in k)} == {7}
    for name, scale in expected.items():
        A, B = (tensors[f"{name}.lora_{k}.weight"] for k in "AB")
        torch.testing.assert_close(deltas[UNET, name.removeprefix("unet.")], B @ A * scale)


def test_spellings_mixed_in_a_file_are_all_read(warm, tmp_path):
    """diffusers' conversion renames attention alone, and its loader then leaves the attention out."""
    tensors = pairs(warm, (*PRESETS["attn+ff"], *CONVOLUTIONS))
    mixed = convert_state_dict_to_diffusers(tensors)
    assert {".".join(key.split(".")[-3:-1]) for key in mixed if ".to_q." in key} == {"lora.down", "lora.up"}
    ordered = dict(sorted(mixed.items(), key=lambda item: "lora_A" not in item[0]))
    deltas, _ = own(written(tmp_path, ordered), warm, tmp_path)
    assert_same(deltas, stock(written(tmp_path / "peft", tensors)))
    flat = {(UNET, key.removeprefix("unet.").removesuffix(".lora_A.weight")) for key in tensors if "lora_A" in key}
    assert deltas.keys() == flat


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """Configurations of SDXL's own size, and no weights."""
    folder = tmp_path_factory.mktemp("sdxl")
    for part in ("tokenizer", "tokenizer_2"):
        (folder / part).symlink_to(BASE.path / part)
    for part, width, layers, heads in (("text_encoder", 768, 12, 12), ("text_encoder_2", 1280, 32, 20)):
        CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
            projection_dim=width,
        ).save_pretrained(folder / part)  # fmt: skip
    for part, values in ((UNET, sdxl_random.UNET), ("vae", sdxl_random.VAE)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(values))
    return shape_of(Base("sdxl", folder))


@pytest.mark.parametrize("size", ["toy", "full"])
def test_every_layer_by_the_original_implementations_names(size, full_size, tmp_path):
    base = full_size if size == "full" else shape_of(BASE)
    layers, tensors = base.lora[UNET].shapes(), {}
    for layer, (n_in, n_out, *kernel) in layers.items():
        name = "lora_unet_" + sgm_name(layer, base.unet.config.layers_per_block).replace(".", "_")
        tensors[f"{name}.lora_down.weight"] = torch.zeros(1, n_in, *kernel, dtype=torch.float16)
        tensors[f"{name}.lora_up.weight"] = torch.zeros(n_out, 1, *[1 for _ in kernel], dtype=torch.float16)
    assert len(layers) == 794 if size == "full" else len(layers) > 100
    assert read_lora(written(tmp_path, tensors), base).layers.keys() == {(UNET, layer) for layer in layers}


def test_both_names_of_a_unet_in_one_file(warm, tmp_path):
    """diffusers drops the original implementation's names where it meets its own."""
    tensors = pairs(warm)
    file = kohya_tensors(tensors, 0.5)
    layers = select(warm.lora[UNET].layers, PRESETS["attn"])
    for layer in layers[::2]:
        for key in [key for key in file if key.startswith(f"lora_unet_{layer.replace('.', '_')}.")]:
            file["lora_unet_" + sgm_name(layer, 1).replace(".", "_") + key[key.index(".") :]] = file.pop(key)
    deltas, _ = own(written(tmp_path, file), warm, tmp_path)
    assert_same(deltas, stock(written(tmp_path / "one", kohya_tensors(tensors, 0.5))))


def test_factors_of_linear_layers_shaped_like_kernels_and_the_other_way_round(warm, tmp_path):
    tensors = kohya_tensors(pairs(warm, ("to_q", "proj_in", "conv_shortcut")), 0.5)
    turned = {
        key: t if not t.dim() else t.flatten(1) if t.dim() == 4 else t[:, :, None, None] for key, t in tensors.items()
    }
    deltas, _ = own(written(tmp_path, turned), warm, tmp_path)
    assert_same(deltas, stock(written(tmp_path / "plain", tensors)))


def bad(key, tensor=None, *also):
    """A sound file with one tensor more, or others instead."""
    return lambda warm: {
        **{k: t for k, t in kohya_tensors(pairs(warm), 0.5).items() if k not in also},
        **({} if key is None else {key: torch.ones(1) if tensor is None else tensor}),
    }


REFUSED = {
    "DoRA of kohya's": (bad(f"{Q}.dora_scale"), r"to_q\.dora_scale' is DoRA .* import PEFT's or diffusers'"),
    "LoHa": (bad("lora_unet_conv_in.hada_w1_a"), r"hada_w1_a' is a LoHa; save it as a plain LoRA"),
    "LoKr": (bad("lora_unet_conv_in.lokr_w1"), r"lokr_w1' is a LoKr; save it"),
    "OFT": (bad("lora_unet_conv_in.oft_diag"), r"oft_diag' is an OFT; save it"),
    "Tucker": (bad("lora_unet_conv_in.lora_mid.weight"), r"lora_mid\.weight' is a Tucker decomposition"),
    "a whole weight": (bad("lora_unet_conv_in.diff"), r"conv_in\.diff' is the difference of a whole weight"),
    "a bias": (bad("unet.conv_in.lora_B.bias"), r"lora_B\.bias' is a bias"),
    "a norm": (bad("lora_unet_conv_norm_out.w_norm"), r"w_norm' changes a norm"),
    "another program's key": (bad("diffusion_model.conv_in.weight"), r"weight' is no tensor of a LoRA for SDXL"),
    "an embedding": (bad("clip_l"), r"'clip_l' is a textual inversion; give the file as --embeddings"),
    "another layer": (
        bad("lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight", torch.ones(4, 48)),
        r"proj_in\.lora_down\.weight' is on no layer .*; import a file made for SDXL",
    ),
    "a block that there is not": (
        bad("lora_unet_middle_block_9_in_layers_2.lora_down.weight", torch.ones(4, 48)),
        r"middle_block_9.* is on no layer",
    ),
    "a layer of the text encoders that nothing changes": (
        bad("lora_te2_text_projection.lora_down.weight", torch.ones(4, 64)),
        r"text_projection\.lora_down\.weight' is on no layer that adapters may change",
    ),
    "Stable Diffusion 1": (
        bad(f"{Q}.lora_down.weight", torch.ones(4, 320)),
        r"lora_down\.weight' is .*\[4, 320\], its layer takes floats \[4, 128\]; import a file made for SDXL",
    ),
    "integers": (bad(f"{Q}.lora_up.weight", torch.ones(128, 4, dtype=torch.int8)), r"lora_up\.weight' is torch\.int8"),
    "not a number": (bad(f"{Q}.lora_up.weight", torch.full((128, 4), torch.nan)), r"lora_up.* is not finite"),
    "an infinite alpha": (bad(f"{Q}.alpha", torch.tensor(torch.inf)), r"alpha' holds a value that is not finite"),
    "no rank": (bad(f"{Q}.lora_down.weight", torch.ones(0, 128)), r"lora_down\.weight' is .*\[0, 128\]"),
    "half a pair": (bad(None, None, f"{Q}.lora_up.weight"), r"comes without its layer's up \(B\)"),
    "alpha alone": (bad("lora_unet_conv_in.alpha"), r"conv_in\.alpha' comes without its layer's down \(A\)"),
    "a factor twice": (
        bad("unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight", torch.ones(4, 128)),
        r"lora_A\.weight' and .*lora_down\.weight' are the same factor",
    ),
    "DoRA of some layers": (
        lambda warm: {k: t for k, t in pairs(warm, dora=True).items() if "1.to_q.lora_magnitude_vector" not in k},
        r"attn1\.to_q' has no magnitude",
    ),
    "nothing": (lambda warm: {}, "it holds no LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_by_name(warm, tmp_path, kind):
    make, says = REFUSED[kind]
    file = written(tmp_path, make(warm))
    with pytest.raises(BundleError, match=rf"^style\.safetensors: .*{says}") as caught:
        make_bundle(Import(file=file, name="style", base="toy-sdxl"), tmp_path / "bundles")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundles").exists()


def test_the_same_file_without_its_flaw_is_taken(warm, tmp_path):
    """So that the files above are refused for what was done to them."""
    make_bundle(Import(file=written(tmp_path, bad(None)(warm)), name="style", base="toy-sdxl"), tmp_path)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"unet.r": 8, "unet.lora_alpha": 8}, "has rank 4, PEFT's configuration 8"),
        ({"unet.lora_alpha": 8}, "'r' is missing"),
        ([1], "is no JSON"),
    ],
)
def test_metadata_that_contradicts_the_tensors(warm, tmp_path, metadata, says):
    with pytest.raises(BundleError, match=says):
        make_bundle(Import(file=written(tmp_path, pairs(warm), metadata), name="style", base="toy-sdxl"), tmp_path)
