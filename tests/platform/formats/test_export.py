"""Exported files have the bundle's own weight deltas, as other programs read them."""

from __future__ import annotations

import json

import pytest
import torch
from lora_files import BASE, assert_same, deltas_of, stock
from safetensors import safe_open
from safetensors.torch import load_file, save

from lorafleet.bundle.adapter import load_adapter
from lorafleet.bundle.bundle import EMBEDDINGS, PREVIEW, README, WEIGHTS, AdapterCard, Trigger, write_bundle
from lorafleet.errors import BundleError
from lorafleet.formats.export import export_diffusers, export_kohya, kohya_name
from lorafleet.loaded import LoadedBase
from lorafleet.targets import PARTS, UNET, select
from lorafleet.tracking import MlflowTracking

TRIGGERS = (
    Trigger(trigger="<rex>", abstraction="TOK", tokens=(0, 1)),
    Trigger(trigger="<rex/TOK2>", abstraction="TOK2", tokens=(2, 3)),
)
KINDS = {  # (targets, rank, text encoders' rank, scale)
    "unet": ("attn", 4, 0, 1.0),
    "feed-forward, another alpha": ("attn+ff", 4, 0, 0.625),
    "all linear layers": ("all-linear", 3, 0, 2.0),
    "convolutions": (
        ["to_q", "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"],
        3,
        0,
        0.5,
    ),
    "text encoders of another rank": ("attn", 4, 2, 1.5),
    "text encoders alone": (None, 0, 3, 1.0),
}


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(BASE)


def chosen(warm, targets):
    """UNet layers by a preset, by the ends of their names, or with "all" every one, convolutions too."""
    lora = warm.lora[UNET]
    return (
        list(lora.layers)
        if targets == "all"
        else select(lora.linear if targets == "all-linear" else lora.layers, targets)
    )


def random_bundle(warm, folder, targets, rank, text_rank, scale, dora=False, tokens=True):
    """Factors of every adapted layer at random, under the bundle's keys."""
    draws, tensors = torch.Generator().manual_seed(5), {}
    for part in PARTS:
        r, names = (rank, chosen(warm, targets)) if part == UNET and targets else (text_rank, [])
        names = list(warm.lora[part].layers) if part != UNET and text_rank else names
        before, m = (f"{part}.", "lora_magnitude_vector")
        if part != UNET:
            before, m = f"{part}.text_model.", "lora_magnitude_vector.weight"
        for name in names:
            W = warm.lora[part].layers[name].base.weight
            ones = [1] * (W.dim() - 2)
            tensors[f"{before}{name}.lora_A.weight"] = torch.randn(r, *W.shape[1:], generator=draws) * 0.1
            tensors[f"{before}{name}.lora_B.weight"] = torch.randn(W.shape[0], r, *ones, generator=draws) * 0.1
            if dora:
                norms = W.flatten(1).norm(dim=1) * (1 + 0.1 * torch.randn(W.shape[0], generator=draws))
                tensors[f"{before}{name}.{m}"] = norms.view(*ones[:1], -1, *ones)
    one, two = (torch.randn(4, width, generator=draws) for width in warm.prompts.widths)
    files = {WEIGHTS: save(tensors), README: b"# rex", PREVIEW: b"png"}
    files |= {EMBEDDINGS: save({"clip_l": one, "clip_g": two})} if tokens else {}
    card = AdapterCard(
        name="rex", base=BASE.name, base_fingerprint=BASE.fingerprint, prediction=BASE.prediction,
        rank=rank or text_rank, alpha=scale * (rank or text_rank), dora=dora, targets=(), text_encoder_rank=text_rank,
        triggers=TRIGGERS if tokens else (Trigger(trigger="<rex>", abstraction="TOK", text="TOK"),),
        class_noun="dog", instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="d", images=4, steps=1,
        licence="apache-2.0", job_id="j", lorafleet_version="0",
    )  # fmt: skip
    return write_bundle(folder / "bundle", card, files)


@pytest.mark.parametrize("kind", KINDS)
def test_stock_diffusers_reads_the_same_deltas_from_the_kohya_file(warm, tmp_path, kind):
    bundle = random_bundle(warm, tmp_path, *KINDS[kind])
    file = export_kohya(bundle, tmp_path / "out")[0]
    assert file == tmp_path / "out" / "loras" / "rex.safetensors"
    assert_same(deltas_of(bundle, warm), stock(file))


def merged(file, warm, norm_of_the_sum):
    """ComfyUI's weights: delta = up @ down * alpha / rank, then (W + delta) * dora_scale / norm, row by row.

    Its `weight_decompose` has taken the norm of W since it knows output axes (0.3.x), where DoRA's own is that of
    W + delta, as in LyCORIS and in ComfyUI's pull request 15458.
    """
    tensors, found = load_file(file), {}
    before = {"unet": "lora_unet_", "text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_text_model_"}
    renamed = {"add_embedding_linear_1": "label_emb_0_0", "add_embedding_linear_2": "label_emb_0_2"}
    for part, lora in warm.lora.items():
        for name, layer in lora.layers.items():
            flat = name.replace(".", "_")
            module = before[part] + renamed.get(flat, flat)
            down, up = (tensors.pop(f"{module}.lora_{way}.weight").flatten(1) for way in ("down", "up"))
            W = layer.base.weight.detach()
            scale = tensors.pop(f"{module}.dora_scale")
            assert scale.shape == (len(W), *[1] * (W.dim() - 1))
            W = W.flatten(1)
            changed = W + up @ down * (tensors.pop(f"{module}.alpha").item() / len(down))
            norm = (changed if norm_of_the_sum else W).norm(dim=1, keepdim=True)
            found[part, name] = changed * (scale.flatten(1) / norm)
    assert not tensors
    return found


def test_dora_comes_back_by_the_published_formula(warm, tmp_path):
    """diffusers leaves `dora_scale` out of kohya files, so the formula is written here."""
    bundle = random_bundle(warm, tmp_path, "all", 4, 4, 0.5, dora=True)
    file = export_kohya(bundle, tmp_path / "out")[0]
    adapter, weights, today = load_adapter(bundle, warm), merged(file, warm, True), merged(file, warm, False)
    for part, layers in adapter.parts.items():
        for name, factors in layers.items():
            A, B, gain = factors.parts(1.0)
            W = warm.lora[part].layers[name].base.weight.detach().flatten(1)
            own = gain[:, None] * W + B @ A
            torch.testing.assert_close(weights[part, name], own, rtol=1e-4, atol=1e-5)
            ratio = today[part, name].norm(dim=1) / own.norm(dim=1)
            torch.testing.assert_close(today[part, name], ratio[:, None] * own, rtol=1e-4, atol=1e-5)  # length alone
            assert (ratio - 1).abs().max() > 1e-4
    assert len(weights) == sum(map(len, adapter.parts.values()))


def test_names_by_hand():
    """As in kohya's own files and in A1111's and ComfyUI's tables; text_model. is there or not by transformers' age."""
    key = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.lora.down.weight"
    assert kohya_name(key) == ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0", "A")
    assert kohya_name("unet.add_embedding.linear_2.lora_B.weight") == ("lora_unet_label_emb_0_2", "B")
    for middle in ("text_model.", ""):
        key = f"text_encoder.{middle}encoder.layers.0.self_attn.q_proj.lora_magnitude_vector.weight"
        assert kohya_name(key) == ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", "m")
    key = "text_encoder_2.text_model.encoder.layers.3.self_attn.out_proj.lora_B.weight"
    assert kohya_name(key) == ("lora_te2_text_model_encoder_layers_3_self_attn_out_proj", "B")
    for unknown in ("vae.x.lora_A.weight", "unet.conv_in.weight"):
        with pytest.raises(BundleError, match="no name in kohya's format"):
            kohya_name(unknown)


def test_each_abstraction_is_a_file_of_its_own(warm, tmp_path):
    bundle = random_bundle(warm, tmp_path, "attn", 2, 0, 1.0)
    first, second = export_kohya(bundle, tmp_path / "out")[1:]
    assert [first.name, second.name] == ["rex.safetensors", "rex-TOK2.safetensors"]
    assert {first.parent, second.parent} == {tmp_path / "out" / "embeddings"}
    whole = bundle.embeddings()
    for file, rows in ((first, slice(0, 2)), (second, slice(2, 4))):
        found = load_file(file)
        assert found.keys() == {"clip_l", "clip_g"}
        assert all(torch.equal(found[key], whole[key][rows]) for key in found)


def test_what_a_reader_is_told(warm, tmp_path):
    """A1111 takes a file with metadata but without the first key for Stable Diffusion 1."""
    bundle = random_bundle(warm, tmp_path, "attn", 4, 2, 0.5, tokens=False)
    (file,) = export_kohya(bundle, tmp_path / "out")
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
        alphas = {opened.get_tensor(key).item() for key in opened.keys() if key.endswith(".alpha")}  # noqa: SIM118
    assert metadata["ss_base_model_version"].startswith("sdxl_")
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2")
    assert alphas == {2.0, 1.0}  # the text encoders' rank is 2
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["rex.safetensors"]


def test_for_diffusers_the_files_are_the_bundles_own(warm, tmp_path):
    bundle = random_bundle(warm, tmp_path, "attn", 2, 0, 1.0)
    written = export_diffusers(bundle, tmp_path / "out" / "rex")
    assert [path.name for path in written] == [WEIGHTS, EMBEDDINGS, README, PREVIEW]
    for path in written:
        assert path.read_bytes() == (bundle.path / path.name).read_bytes()


def test_the_command_writes_a_registered_version(lorafleet, warm, tmp_path, capsys):
    tracking = MlflowTracking(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}", tmp_path / "home" / "artifacts")
    run_id = tracking.start_submission("pets", "0" * 16, {}, "name: pets\n")
    bundle = random_bundle(warm, tmp_path, "attn", 2, 0, 1.0, dora=True)
    tracking.log_bundle(run_id, bundle.path)
    tracking.register(bundle, run_id)
    out = tmp_path / "for comfy"
    assert lorafleet("adapters", "export", "rex@champion", "--format", "kohya", "--out", out, "--json") == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert (document["name"], document["version"], document["format"]) == ("rex", 1, "kohya")
    files = [out / "loras/rex.safetensors", out / "embeddings/rex.safetensors", out / "embeddings/rex-TOK2.safetensors"]
    assert document["files"] == [str(file) for file in files]
    assert all(file.is_file() for file in files)
    assert "diffusers leaves dora_scale out" in told.err
    assert lorafleet("adapters", "export", "rex", "--format", "diffusers", "--out", tmp_path / "d") == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == str(tmp_path / "d" / WEIGHTS)
    assert told.err == ""


@pytest.mark.parametrize(
    ("name", "to", "code", "says"),
    [("nobody", "kohya", 3, "nobody"), ("nobody", "webui", 2, "'webui' is not one of 'kohya', 'diffusers'")],
)
def test_mistakes_are_one_line_and_a_code(lorafleet, tmp_path, capsys, name, to, code, says):
    assert lorafleet("adapters", "export", name, "--format", to, "--out", tmp_path / "out") == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
