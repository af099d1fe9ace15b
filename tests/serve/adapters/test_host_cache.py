"""The shelf: one load for many askers, the least recently used dropped by bytes, a replaced bundle read again."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lorafleet.bases import find_base
from lorafleet.errors import BundleError
from lorafleet_serve.adapters.host_cache import HostAdapterCache, HostLoader
from lorafleet_serve.stats import Counts

BASE = find_base("toy-playground")


@pytest.fixture
def folder(tmp_path, playground, tools):
    """folder(name, value) writes a rank 2 bundle whose factors all hold `value`, and returns where."""

    def write(name, value=0.01):
        weights = tools["some_weights"](playground, value=value)
        return tools["make_bundle"](tmp_path, BASE, name, rank=2, alpha=1.0, weights=weights).path

    return write


def shelf_for(engine, **options):
    return HostAdapterCache(HostLoader(engine.model.loaded, engine.model.columns), Counts(), **options)


def test_many_askers_share_one_load(playground, folder):
    counts = Counts()
    shelf, path = HostAdapterCache(HostLoader(playground.model.loaded, playground.model.columns), counts), folder("a")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: shelf.fetch(path).result(60), range(16)))
    assert all(adapter is found[0] for adapter in found)
    assert (counts.read().host_hits, counts.read().host_misses) == (15, 1)
    factors = found[0].flat.factors
    assert torch.equal(factors.A, torch.full_like(factors.A, 0.01))
    assert torch.equal(factors.B, torch.full_like(factors.B, 0.005))  # alpha 1 over rank 2 folded in
    shelf.close()


def test_the_least_recently_used_goes_first(playground, folder):
    paths = [folder(name) for name in "abc"]
    size = shelf_for(playground).fetch(paths[0]).result(60).nbytes
    shelf = shelf_for(playground, capacity=2 * size)
    a, b = (shelf.fetch(path).result(60) for path in paths[:2])
    assert shelf.fetch(paths[0]).result(60) is a
    shelf.fetch(paths[2]).result(60)
    assert shelf.fetch(paths[0]).result(60) is a
    assert shelf.fetch(paths[1]).result(60) is not b
    shelf.close()


def test_a_replaced_bundle_is_read_again(playground, folder):
    shelf = shelf_for(playground)
    path = folder("a")
    before = shelf.fetch(path).result(60)
    folder("a", value=0.02)
    after = shelf.fetch(path).result(60)
    assert after.flat.factors.A[0, 0] == pytest.approx(0.02)
    assert before.flat.factors.A[0, 0] == pytest.approx(0.01)
    shelf.close()


def test_a_failed_load_is_tried_again(playground, folder, tmp_path):
    shelf = shelf_for(playground)
    with pytest.raises(BundleError, match="no readable"):
        shelf.fetch(tmp_path / "late").result(60)
    folder("late")
    assert shelf.fetch(tmp_path / "late").result(60).adapter.name == "late"
    path = folder("spoilt")
    weights = path / "pytorch_lora_weights.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    with pytest.raises(BundleError, match="sha256"):
        shelf.fetch(path).result(60)
    weights.write_bytes(data)
    assert shelf.fetch(path).result(60).adapter.name == "spoilt"
    shelf.close()
