"""Faults in bundles, formats and tracking, and the tests that should notice them."""

from __future__ import annotations

from mutant import Mutant

MUTANTS = (
    Mutant(
        "a card may name files elsewhere",
        "platform/lorafleet/bundle/bundle.py",
        "if Path(name).name != name or not file.is_file():",
        "if not file.is_file():",
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "files of any size are read",
        "platform/lorafleet/bundle/bundle.py",
        "if file.stat().st_size > MAX_BYTES:",
        "if file.stat().st_size < 0:",
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "a bundle is replaced in place",
        "platform/lorafleet/util/files.py",
        "        target.rename(old)\n",
        "        shutil.rmtree(target)\n",
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "the cache drops in any order",
        "platform/lorafleet/bundle/disk_cache.py",
        "sorted(self.entries(), key=lambda entry: entry.used)",
        "sorted(self.entries(), key=lambda entry: entry.digest)",
        "tests/platform/bundle/test_disk_cache.py",
    ),
    Mutant(
        "the cache leaves what killed processes left",
        "platform/lorafleet/bundle/disk_cache.py",
        "            self._sweep()\n",
        "",
        "tests/platform/bundle/test_disk_cache.py",
    ),
    Mutant(
        "the cache verifies a folder once",
        "platform/lorafleet/bundle/disk_cache.py",
        "if seen is None or seen[0] != looks:",
        "if seen is None:",
        "tests/platform/bundle/test_disk_cache.py",
    ),
    Mutant(
        "a key given twice overwrites",
        "platform/lorafleet/bundle/adapter.py",
        "        if kind in tensors:\n",
        "        if False:\n",
        "tests/serve/engine/test_engine.py::test_an_adapter_that_does_not_fit_is_an_error_and_never_the_base",
    ),
    Mutant(
        "non-finite adapters are loaded",
        "platform/lorafleet/bundle/adapter.py",
        "if not torch.isfinite(tensor).all():",
        "if False:",
        "tests/serve/engine/test_engine.py::test_an_adapter_that_does_not_fit_is_an_error_and_never_the_base",
    ),
    Mutant(
        "targets match within a name",
        "platform/lorafleet/targets.py",
        """layer.endswith(f".{suffix}")""",
        "layer.endswith(suffix)",
        "tests/platform/test_targets.py",
    ),
    Mutant(
        "half-written folders are adapters",
        "platform/lorafleet/bundle/folder_registry.py",
        'glob(f"[!.]*/{CARD}")',
        'glob(f"*/{CARD}")',
        "tests/platform/bundle/test_bundle.py",
    ),
    Mutant(
        "registering again moves champion",
        "platform/lorafleet/tracking/registry.py",
        """if version.tags.get("published") != "true":  # new""",
        "if True:  # new",
        "tests/platform/tracking/test_tracking_registry.py",
    ),
    Mutant(
        "the registry reads one page",
        "platform/lorafleet/tracking/presence.py",
        "        token = page.token\n",
        "        token = None\n",
        "tests/platform/tracking/test_tracking_registry.py tests/platform/bundle/test_folder_registry.py",
    ),
    Mutant(
        "the same job trained again is its first bundle",
        "platform/lorafleet/tracking/registry.py",
        "    if DIGEST in (facts := facts_of(version)):\n        return bool(",
        "    if False:\n        return bool(",
        "tests/platform/bundle/test_folder_registry.py tests/platform/tracking/test_tracking_registry.py",
    ),
)
