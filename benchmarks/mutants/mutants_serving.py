"""Faults in serving, and the tests that should notice them."""

from __future__ import annotations

from mutant import Mutant

MUTANTS = (
    Mutant(
        "a step taken again draws new noise",
        "serve/lorafleet_serve/engine/rows.py",
        "        while self._drawn <= number:\n",
        "        for _ in range(1):\n",
        "tests/serve/engine/test_rows.py",
    ),
    Mutant(
        "numbers asked as often as aliases",
        "serve/lorafleet_serve/adapters/resolver.py",
        "return self.number_ttl if wanted.isdecimal() else self.alias_ttl",
        "return self.alias_ttl",
        "tests/serve/adapters/test_resolver.py",
    ),
    Mutant(
        "stale answers for ever",
        "serve/lorafleet_serve/adapters/resolver.py",
        "        and now - last.at <= freshness.ttl(wanted) + freshness.stale_for\n",
        "",
        "tests/serve/adapters/test_resolver.py",
    ),
    Mutant(
        "a removed version is served by its number",
        "serve/lorafleet_serve/adapters/resolver.py",
        "[key for key in self._answers if key[0] == name]",
        "[key for key in self._answers if key == (name, CHAMPION)]",
        "tests/serve/adapters/test_resolver.py",
    ),
    Mutant(
        "names asked for are never forgotten",
        "serve/lorafleet_serve/adapters/resolver.py",
        "LRUCache(max_answers)",
        "LRUCache(10**12)",
        "tests/serve/adapters/test_resolver.py",
    ),
    Mutant(
        "slots counted twice for what is there",
        "serve/lorafleet_serve/adapters/device_cache.py",
        "if slot.pins and key not in wanted)",
        "if slot.pins)",
        "tests/serve/adapters/test_device_cache.py",
    ),
    Mutant(
        "slots dropped first in, first out",
        "serve/lorafleet_serve/adapters/device_cache.py",
        "            self.held.move_to_end(key)\n",
        "",
        "tests/serve/adapters/test_device_cache.py",
    ),
    Mutant(
        "a replaced bundle is not read again",
        "serve/lorafleet_serve/adapters/host_cache.py",
        "(path / CARD).stat().st_mtime_ns",
        "(path / CARD).stat().st_mtime_ns * 0",
        "tests/serve/adapters/test_host_cache.py",
    ),
    Mutant(
        "host memory first in, first out",
        "serve/lorafleet_serve/adapters/host_cache.py",
        "                self._held.move_to_end(key)\n",
        "                pass\n",
        "tests/serve/adapters/test_host_cache.py",
    ),
    Mutant(
        "a layer without DoRA gains beside one with",
        "serve/lorafleet_serve/adapters/layout.py",
        "    return ones, torch.stack([ones, torch.zeros_like(ones), torch.zeros_like(ones)])\n",
        "    return ones, torch.stack([ones, ones, torch.zeros_like(ones)])\n",
        "tests/serve/adapters/test_flat_adapter.py",
    ),
    Mutant(
        "one slow step is believed for ever",
        "serve/lorafleet_serve/engine/scheduler.py",
        "            measured[min(slow)] *= DECAY\n",
        "            pass\n",
        "tests/serve/engine/test_scheduler.py",
    ),
    Mutant(
        "the newest time alone counts",
        "serve/lorafleet_serve/engine/scheduler.py",
        "ms if cost not in measured else measured[cost] + NEW_WEIGHT * (ms - measured[cost])",
        "ms",
        "tests/serve/engine/test_scheduler.py",
    ),
    Mutant(
        "the first shape always steps",
        "serve/lorafleet_serve/engine/scheduler.py",
        "self._queue = [*queue[1:], queue[0]]",
        "self._queue = queue",
        "tests/serve/engine/test_scheduler.py",
    ),
    Mutant(
        "a route depends on the order of adapters",
        "serve/lorafleet_serve/replicas/routing.py",
        '",".join(sorted(wanted))',
        '",".join(wanted)',
        "tests/serve/replicas/test_routing.py",
    ),
    Mutant(
        "sides up to four times the base's",
        "serve/lorafleet_serve/engine/requests.py",
        "return least, base.resolution * 2",
        "return least, base.resolution * 4",
        "tests/serve/engine/test_requests.py",
    ),
    Mutant(
        "the engine keeps the number of every request",
        "serve/lorafleet_serve/engine/engine.py",
        "            self._stepped.discard(id_)\n",
        "",
        "tests/serve/engine/test_engine.py::test_nothing_is_kept_of_requests_that_ended",
    ),
)
