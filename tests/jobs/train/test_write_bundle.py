"""The adapter's file: the same job gives the same bytes, and whoever reads it sees no difference."""

import torch
from safetensors import safe_open
from safetensors.torch import load, save

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import AdapterCard
from lorafleet.config import Recipe
from lorafleet.loaded import LoadedBase
from lorafleet_jobs.train.trainable_state import TrainableState
from lorafleet_jobs.train.write_bundle import in_order, lora_file


def test_the_same_tensors_and_metadata_are_the_same_bytes(tmp_path):
    tensors = {"b": torch.randn(3, 2), "a": torch.randn(5), "c": torch.ones(1, dtype=torch.float16)}
    metadata = {f"key{n}": "é" * n for n in range(6)}
    written = [save(tensors, metadata) for _ in range(20)]
    assert len(set(written)) > 1, "else nothing needs to be sorted"
    (data,) = {in_order(one) for one in written}
    (tmp_path / "file").write_bytes(data)
    assert {key: value.tolist() for key, value in load(data).items()} == {k: v.tolist() for k, v in tensors.items()}
    with safe_open(tmp_path / "file", "pt") as read:
        assert read.metadata() == metadata


def test_the_same_adapter_is_the_same_bytes():
    loaded = LoadedBase.load(find_base("toy-sdxl"))
    trainable = TrainableState.new(
        Recipe(rank=2, text_encoder_lora={"rank": 1}), loaded, torch.Generator().manual_seed(0)
    )
    card = AdapterCard(
        name="rex", base="toy-sdxl", base_fingerprint="f", prediction="epsilon", rank=2, alpha=2, targets=("to_q",),
        triggers=(), class_noun="dog", instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="d",
        images=1, steps=1, licence="apache-2.0", job_id="j", lorafleet_version="0",
    )  # fmt: skip
    assert len({lora_file(trainable, card) for _ in range(12)}) == 1
