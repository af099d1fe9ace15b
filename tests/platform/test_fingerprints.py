"""A base is told from another by the values of the weights that are loaded, whatever lies beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorafleet.bases import SHIPPED, Base, find_base
from lorafleet.errors import BaseModelError
from lorafleet.loaded import LoadedBase
from lorafleet.weights import Stored, values_digest

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
         "text_encoder_2": "model"}  # fmt: skip
Parts = dict[str, dict[str, torch.Tensor]]
OF_FILES = {"toy-sdxl": "1ccd2d487063697d", "toy-playground": "fb9f5fd5bae495de"}
"""What cards of adapters said when fingerprints were of files."""


@pytest.fixture(scope="module")
def values() -> Parts:
    """toy-sdxl's weights in fp32, moved a little so that rounding to fp16 changes nearly all of them."""
    draws = torch.Generator().manual_seed(0)
    source = SHIPPED["toy-sdxl"]
    parts = {part: load_file(source / part / f"{stem}.safetensors") for part, stem in STEMS.items()}
    return {
        part: {name: w.float() * (1 + 1e-4 * torch.randn(w.shape, generator=draws)) for name, w in tensors.items()}
        for part, tensors in parts.items()
    }


def folder_of(target: Path) -> Base:
    """toy-sdxl without weights."""
    source = SHIPPED["toy-sdxl"]
    for entry in source.rglob("*"):
        if entry.is_file() and entry.suffix != ".safetensors":
            copy = target / entry.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(entry.read_bytes())
    return Base("mine", target)


def cast(parts: Parts, dtype: torch.dtype) -> Parts:
    return {part: {name: w.to(dtype) for name, w in tensors.items()} for part, tensors in parts.items()}


def add(base: Base, parts: Parts, variant: str = "") -> Base:
    """Writes one file a part; returns the base as somebody finds it who has not seen it before."""
    dot = f".{variant}" if variant else ""
    for part, tensors in parts.items():
        save_file(tensors, base.path / part / f"{STEMS[part]}{dot}.safetensors")
    return Base("mine", base.path)


def add_shards(base: Base, parts: Parts, pattern: str = "{stem}-{i:05}-of-00002", index: str = "index") -> Base:
    """Writes two files a part with an index."""
    for part, tensors in parts.items():
        names, stem = sorted(tensors), STEMS[part]
        where = {}
        for i, half in enumerate((names[::2], names[1::2]), 1):
            file = pattern.format(stem=stem, i=i) + ".safetensors"
            save_file({name: tensors[name] for name in half}, base.path / part / file)
            where |= dict.fromkeys(half, file)
        told = {"metadata": {"total_size": 0}, "weight_map": where}
        (base.path / part / f"{stem}.safetensors.{index}.json").write_text(json.dumps(told))
    return Base("mine", base.path)


def prints(base: Base) -> tuple[str, str]:
    return base.fingerprint, base.vae_fingerprint


def moved(parts: Parts, part: str, end: str, by: float) -> Parts:
    """Every weight of the tensors that end so, one optimizer step of that rate further."""
    draws = torch.Generator().manual_seed(1)
    return {
        **parts,
        part: {
            name: w + by * torch.randn(w.shape, generator=draws).sign() if name.endswith(end) else w
            for name, w in parts[part].items()
        },
    }


def test_copies_in_other_precisions_are_the_same_base(values, tmp_path):
    half = cast(values, torch.float16)
    fp32 = add(folder_of(tmp_path / "fp32"), values)
    fp16 = add(folder_of(tmp_path / "fp16"), half)
    fp64 = add(folder_of(tmp_path / "fp64"), cast(values, torch.float64))
    assert not torch.equal(half["unet"]["conv_in.weight"].float(), values["unet"]["conv_in.weight"])
    assert fp32.fingerprint == fp16.fingerprint == fp64.fingerprint
    # latents are made by the stored values to the last bit
    assert len({base.vae_fingerprint for base in (fp32, fp16, fp64)}) == 3


def test_a_bf16_copy_is_another_base(values, tmp_path):
    assert (
        add(folder_of(tmp_path / "fp32"), values).fingerprint
        != add(folder_of(tmp_path / "bf16"), cast(values, torch.bfloat16)).fingerprint
    )


@pytest.mark.parametrize(
    ("part", "end"), [("unet", "attn2.to_k.weight"), ("text_encoder", "q_proj.weight"), ("text_encoder_2", "fc1.bias")]
)
def test_one_tiny_step_of_fine_tuning_is_another_base(values, tmp_path, part, end):
    """A step of 1e-6, of one kind of layer alone."""
    before = add(folder_of(tmp_path / "before"), values)
    after = add(folder_of(tmp_path / "after"), moved(values, part, end, 1e-6))
    assert before.fingerprint != after.fingerprint
    assert before.vae_fingerprint == after.vae_fingerprint


def test_the_vae_is_its_own(values, tmp_path):
    before = add(folder_of(tmp_path / "before"), values)
    after = add(folder_of(tmp_path / "after"), moved(values, "vae", "bias", 1e-6))
    assert before.fingerprint == after.fingerprint
    assert before.vae_fingerprint != after.vae_fingerprint


def test_what_is_not_loaded_does_not_matter(values, tmp_path):
    """Another variant, a stray file and shards that transformers passes over change nothing."""
    base = add(folder_of(tmp_path / "base"), values)
    before = prints(base)
    other = moved(values, "unet", "weight", 0.1)
    assert prints(add(base, cast(other, torch.float16), "fp16")) == before
    save_file({"x": torch.ones(3)}, base.path / "unet" / "old.safetensors")
    (base.path / "vae" / "old.bin").write_bytes(b"pickle")
    assert prints(Base("again", base.path)) == before


def test_shards_are_the_same_base_as_one_file(values, tmp_path):
    assert prints(add_shards(folder_of(tmp_path / "shards"), values)) == prints(
        add(folder_of(tmp_path / "one"), values)
    )


def test_names_that_depend_on_the_version_of_transformers_do_not_count(values, tmp_path):
    other = {**values, "text_encoder": {
        **{name.removeprefix("text_model."): w for name, w in values["text_encoder"].items()},
        "embeddings.position_ids": torch.arange(77)[None],
    }}  # fmt: skip
    one, two = add(folder_of(tmp_path / "one"), values), add(folder_of(tmp_path / "two"), other)
    assert one.fingerprint == two.fingerprint


def with_both(base: Base, parts: Parts) -> Base:
    """Shards with other values beside one file a part; diffusers takes the shards."""
    add(base, {part: tensors if part.startswith("text") else cast({part: tensors}, torch.float16)[part]
               for part, tensors in parts.items()})  # fmt: skip
    return add_shards(base, {p: t for p, t in parts.items() if not p.startswith("text")})


def once_named(base: Base, parts: Parts) -> Base:
    """Shards of a variant as diffusers wrote them until 2024; transformers never did."""
    add(base, {part: tensors for part, tensors in parts.items() if part.startswith("text")}, "fp16")
    own = {part: tensors for part, tensors in parts.items() if not part.startswith("text")}
    return add_shards(base, own, "{stem}-{i:05}-of-00002.fp16", "fp16.index")


def beside_an_index(base: Base, parts: Parts) -> Base:
    """A variant, and an index of shards that were not fetched."""
    add_shards(base, parts)
    for shard in base.path.glob("*/*-of-*"):
        shard.unlink()
    return add(base, parts, "fp16")


LAYOUTS = {
    "one file": add,
    "one file, and a variant of other values": lambda base, parts: add(
        add(base, cast(moved(parts, "unet", "weight", 0.1), torch.float16), "fp16"), parts
    ),
    "fp16 alone": lambda base, parts: add(base, parts, "fp16"),
    "fp16 beside an index alone": beside_an_index,
    "shards": add_shards,
    "shards of a variant": lambda base, parts: add_shards(base, parts, "{stem}.fp16-{i:05}-of-00002", "index.fp16"),
    "shards of a variant, as once named": once_named,
    "shards beside one file": with_both,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_loaded_is_what_is_identified(values, tmp_path, layout):
    """Every weight in memory is the one in the files that the fingerprint and the parameter count are of."""
    base = LAYOUTS[layout](folder_of(tmp_path / "base"), values)
    loaded = LoadedBase.load(base)
    assert base.fingerprint == add(folder_of(tmp_path / "plain"), values).fingerprint
    encoders = dict(zip(("text_encoder", "text_encoder_2"), loaded.prompts.encoders, strict=True))
    for part, module in {"unet": loaded.unet, "vae": loaded.vae, **encoders}.items():
        held = {name.replace(".base.", ".").removeprefix("text_model."): w for name, w in module.named_parameters()}
        stored = {name.removeprefix("text_model."): w for name, w in values[part].items()}
        assert held.keys() == stored.keys()
        assert all(torch.equal(w, stored[name]) for name, w in held.items())
        assert set(base.tensors(part)) == set(values[part])


def test_what_cannot_be_loaded_is_said_in_one_line(values, tmp_path):
    base = folder_of(tmp_path / "base")
    unet = base.path / "unet"
    unet_alone = {"unet": values["unet"]}

    def says(*words: str) -> None:
        with pytest.raises(BaseModelError) as refused:
            Base("mine", base.path).tensors("unet")
        assert all(word in str(refused.value) for word in words)
        assert "\n" not in str(refused.value)

    (unet / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    says(str(unet), "holds no diffusion_pytorch_model.safetensors")
    add_shards(base, unet_alone)
    (unet / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    says(
        "diffusion_pytorch_model-00002-of-00002.safetensors is named by an index and not there", "fetch the base again"
    )
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text("[]")
    says("cannot read", "index.json")
    (unet / "diffusion_pytorch_model.safetensors.index.json").unlink()
    add(base, unet_alone, "fp16")
    add(base, unet_alone, "ema")
    says("the variants ema, fp16", "leave one of them")
    whole = add(base, unet_alone).files("unet").paths[0]
    whole.write_bytes(whole.read_bytes()[:-100])
    says("bytes are too few for")
    whole.write_bytes(b"\x00")
    says("cannot read", whole.name)


def test_a_few_places_of_a_huge_tensor_are_read(tmp_path):
    """Eight gigabytes that are not there on disk either: reading them would take the whole of a CI run."""
    big = Stored(tmp_path / "big", "F32", (2**31,), 8, 8 + 2**33)
    with big.path.open("wb") as file:
        file.truncate(big.stop)
    before = values_digest({"w": big}, as_fp16=True)
    for at in (big.start, big.stop - 4, big.start + 2**32):
        with big.path.open("r+b") as file:
            file.seek(at)
            file.write(b"\x00\x00\x80\x3f")
        after = values_digest({"w": big}, as_fp16=True)
        assert after != before
        before = after


@pytest.mark.parametrize("name", OF_FILES)
def test_adapters_from_before_fingerprints_were_of_values_still_fit(name):
    base, other = (find_base(one) for one in ([name, *(n for n in OF_FILES if n != name)]))
    assert base.is_named(OF_FILES[name])
    assert base.is_named(base.fingerprint)
    assert not base.is_named(OF_FILES[other.name])
    assert not base.is_named(other.fingerprint)


def test_they_fit_whether_or_not_a_variant_has_come_since(tmp_path):
    base = folder_of(tmp_path / "base")
    shipped = {part: load_file(SHIPPED["toy-sdxl"] / part / f"{stem}.safetensors") for part, stem in STEMS.items()}
    for part, stem in STEMS.items():
        weights = f"{stem}.safetensors"
        (base.path / part / weights).write_bytes((SHIPPED["toy-sdxl"] / part / weights).read_bytes())
    assert add(base, shipped, "fp16").is_named(OF_FILES["toy-sdxl"])


def test_which_variants_are_loaded_is_said(values, tmp_path):
    half, unet = cast(values, torch.float16), {"unet": values["unet"]}
    base = add(folder_of(tmp_path / "base"), values)
    assert base.files_choice == find_base("toy-sdxl").files_choice == ""
    assert add(base, half, "fp16").files_choice == "files without a variant; not from the fp16 files beside them"
    alone = add(folder_of(tmp_path / "alone"), half, "fp16")
    assert alone.files_choice == "fp16 files"
    assert add(alone, unet).files_choice == (
        "files without a variant (unet) and fp16 files (text_encoder, text_encoder_2, vae); not from the fp16 files "
        "beside them"
    )
    assert beside_an_index(folder_of(tmp_path / "index"), values).files_choice == "fp16 files"
