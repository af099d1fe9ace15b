"""The disk cache: its bookkeeping as a state machine, damage, kills, and two processes at once."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lorafleet.bundle.bundle import CARD, WEIGHTS, AdapterCard, Trigger, read_bundle, sha256_of, write_bundle
from lorafleet.bundle.disk_cache import BundleCache
from lorafleet.errors import BundleError


def bundle_at(path, name, padding=0):
    """A bundle whose weights nobody will load; `padding` makes it larger. Returns its digest."""
    card = AdapterCard(
        name=name, base="toy-playground", base_fingerprint="0" * 16, prediction="edm", rank=4, alpha=4,
        targets=("to_q",), triggers=(Trigger(trigger=f"<{name}>", abstraction="TOK"),), class_noun="dog",
        instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="f", images=5, steps=12,
        licence="apache-2.0", job_id="a" * 16, lorafleet_version="0.1.0",
    )  # fmt: skip
    write_bundle(path, card, {WEIGHTS: name.encode() + b"x" * padding})
    return sha256_of(path / CARD)


class Source:
    """Where bundles are downloaded from; counts."""

    def __init__(self, root, names, padding=4000):
        self.folders = {bundle_at(root / name, name, padding + 100 * i): root / name for i, name in enumerate(names)}
        self.digests = list(self.folders)
        self.downloads = dict.fromkeys(self.folders, 0)

    def download(self, digest):
        def put(folder):
            self.downloads[digest] += 1
            return Path(shutil.copytree(self.folders[digest], folder / "adapter"))

        return put

    def bytes(self, digest):
        return sum(file.stat().st_size for file in self.folders[digest].iterdir())


@pytest.fixture
def source(tmp_path):
    return Source(tmp_path / "source", ["rex", "mia", "tom"])


def spoil(path):
    data = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(data[:-1] + b"y")
    stat = (path / WEIGHTS).stat()
    os.utime(path / WEIGHTS, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))  # coarse file systems


class Cache(RuleBasedStateMachine):
    """Bytes within bounds, pinned entries intact, least recently used first, one download a miss."""

    names = ("rex", "mia", "tom", "cup", "mug")
    which = st.integers(0, len(names) - 1)

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.source = Source(self.folder / "source", self.names)
        self.now = 0.0
        self.capacity = int(2.5 * self.source.bytes(self.source.digests[0]))
        self.used, self.damaged, self.pins = {}, set(), {}  # what must lie there, by last use
        self.restart()

    def teardown(self):
        for pins in self.pins.values():
            for pin in pins:
                pin.close()
        shutil.rmtree(self.folder)

    def drop_old(self, kept):
        for digest in sorted(self.used, key=self.used.get):
            if sum(self.source.bytes(one) for one in self.used) <= self.capacity:
                return
            if digest != kept and not self.pins.get(digest):
                del self.used[digest]
                self.damaged.discard(digest)

    @rule(which=which)
    def get(self, which):
        digest = self.source.digests[which]
        before = self.source.downloads[digest]
        bundle = self.cache.get(digest, self.source.download(digest))
        assert read_bundle(bundle.path).card.name == self.names[which]
        fetched = digest not in self.used or digest in self.damaged
        assert self.source.downloads[digest] - before == fetched
        self.now += 1
        self.used[digest] = self.now
        self.damaged.discard(digest)
        if fetched:
            self.drop_old(digest)

    @rule(which=which)
    def pin(self, which):
        digest = self.source.digests[which]
        stack = ExitStack()
        assert stack.enter_context(self.cache.pinned(digest)) == (digest in self.used)
        self.pins.setdefault(digest, []).append(stack)

    @rule(which=which)
    @precondition(lambda self: any(self.pins.values()))
    def unpin(self, which):
        digests = [digest for digest, pins in self.pins.items() if pins]
        self.pins[digests[which % len(digests)]].pop().close()

    @rule(which=which)
    def damage(self, which):
        digest = self.source.digests[which]
        if digest in self.used:
            spoil(self.cache.root / digest)
            self.damaged.add(digest)

    @rule()
    def restart(self):
        """Another process over the same folder; the first one's pins stay."""
        self.cache = BundleCache(self.folder / "cache", self.capacity, lambda: self.now + 1)

    @invariant()
    def what_lies_there_is_what_should(self):
        root = self.cache.root
        there = {path.name for path in root.iterdir() if path.name != ".locks"} if root.is_dir() else set()
        assert there == set(self.used)
        assert self.cache.stats().bytes == sum(self.source.bytes(digest) for digest in self.used)


TestCache = Cache.TestCase
TestCache.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_the_one_asked_for_longest_ago_is_dropped(tmp_path, source, order):
    first, second, third = (source.digests[i] for i in order)
    now = iter(range(1, 99))
    cache = BundleCache(tmp_path / "cache", int(2.5 * source.bytes(first)), lambda: next(now))
    for digest in (first, second, first, third):
        cache.get(digest, source.download(digest))
    assert {path.name for path in cache.root.iterdir()} == {".locks", first, third}


def test_two_hundred_askers_make_one_download(tmp_path, source):
    digest = source.digests[0]
    caches = [BundleCache(tmp_path / "cache") for _ in range(2)]  # as two processes: their locks are their own
    with ThreadPoolExecutor(16) as pool:
        bundles = list(pool.map(lambda i: caches[i % 2].get(digest, source.download(digest)), range(200)))
    assert len({bundle.path for bundle in bundles}) == 1
    assert source.downloads[digest] == 1
    assert sum(cache.stats().hits for cache in caches) == 199


def test_what_is_not_the_bundle_asked_for_is_refused_and_leaves_nothing(tmp_path, source):
    rex, mia, _ = source.digests
    cache = BundleCache(tmp_path / "cache")
    with pytest.raises(BundleError, match=f"sha256 {rex}"):
        cache.get(rex, source.download(mia))

    def half(folder):
        source.download(rex)(folder)
        (folder / "adapter" / WEIGHTS).unlink()
        return folder / "adapter"

    with pytest.raises(BundleError, match="listed in"):
        cache.get(rex, half)
    with pytest.raises(ZeroDivisionError):
        cache.get(rex, lambda folder: 1 // 0)
    assert [path.name for path in cache.root.iterdir()] == [".locks"]
    assert cache.get(rex, source.download(rex)).card.name == "rex"


def test_damage_is_noticed_by_a_process_that_had_verified_it_before(tmp_path, source):
    cache, digest = BundleCache(tmp_path / "cache"), source.digests[0]
    path = cache.get(digest, source.download(digest)).path
    for harm in (lambda: spoil(path), (path / WEIGHTS).unlink, (path / CARD).unlink):
        harm()
        assert read_bundle(cache.get(digest, source.download(digest)).path)
    assert source.downloads[digest] == 4
    assert (cache.stats().damaged, cache.stats().misses) == (3, 4)


PROCESS = """
import shutil, sys
from pathlib import Path
from lorafleet.bundle.disk_cache import BundleCache

cache, source, digest = BundleCache(Path(sys.argv[1]), 1), Path(sys.argv[2]), sys.argv[3]

def download(folder):
    (source.parent / "downloads").open("a").write("x")
    put = Path(shutil.copytree(source, folder / "adapter"))
    print("half", flush=True)
    sys.stdin.read(1)
    return put

bundle = cache.get(digest, download)
with cache.pinned(digest) as there:
    print("pinned" if there else "gone", bundle.card.name, flush=True)
    sys.stdin.read(1)
"""


@pytest.fixture
def process(tmp_path, source):
    """Starts a process that gets the first bundle, stops half-way through a download, and pins it."""
    started = []

    def start():
        digest = source.digests[0]
        arguments = [tmp_path / "cache", source.folders[digest], digest]
        made = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(made)
        return made

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_two_processes_share_one_download_and_one_s_pin_binds_the_other(tmp_path, source, process):
    first = process()
    assert first.stdout.readline() == "half\n"
    second = process()
    first.stdin.write("g")
    first.stdin.flush()
    assert first.stdout.readline() == second.stdout.readline() == "pinned rex\n"
    assert (tmp_path / "source" / "downloads").read_text() == "x"
    rex, mia, tom = source.digests
    cache = BundleCache(tmp_path / "cache", capacity=1)
    cache.get(mia, source.download(mia))
    assert (cache.root / rex).is_dir(), "two others use it"
    first.kill()
    first.communicate()
    cache.get(tom, source.download(tom))
    assert not (cache.root / mia).exists()
    assert (cache.root / rex).is_dir(), "the second still does"
    second.kill()
    second.communicate()
    cache.get(mia, source.download(mia))
    assert not (cache.root / rex).exists()


def test_a_process_killed_half_way_leaves_nothing_that_stays(tmp_path, source, process):
    killed = process()
    assert killed.stdout.readline() == "half\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    cache, digest = BundleCache(tmp_path / "cache"), source.digests[0]
    assert len(list(cache.root.glob(f".{digest}.*"))) == 1
    assert cache.get(digest, source.download(digest)).card.name == "rex"
    assert {path.name for path in cache.root.iterdir()} == {".locks", digest}
