"""The adapter's file: the same job gives the same bytes, and whoever reads it sees no difference."""

import torch
from safetensors import safe_open
from safetensors.torch import load, save

from lorafleet_jobs.train.artifact import in_order


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
