"""Addresses of photographs, on the filesystems that fsspec has in memory and on disk: fetched once, and when new."""

import fsspec
import pytest
from subject_folders import packed

from lorafleet.errors import DataError
from lorafleet_jobs.fetching import bounds
from lorafleet_jobs.fetching.remote_folder import STORES, fetch, scheme_of


@pytest.fixture
def memory():
    """An empty memory filesystem."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield filesystem
    filesystem.store.clear()


def names(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_fetched_once_and_again_when_it_changed(memory, tmp_path) -> None:
    memory.pipe(
        {"/pets/rex/a.jpg": b"a", "/pets/rex/a.txt": b"TOK", "/pets/rex/more/b.jpg": b"b", "/pets/mimi/c": b"c"}
    )
    folder = fetch("memory://pets/rex", tmp_path)
    assert names(folder) == ["a.jpg", "a.txt", "more/b.jpg"]
    assert (folder / "a.jpg").read_bytes() == b"a"
    (folder / "witness").touch()
    assert fetch("memory://pets/rex/", tmp_path) == folder
    assert (folder / "witness").exists()
    memory.pipe({"/pets/rex/a.jpg": b"A"})
    again = fetch("memory://pets/rex", tmp_path)
    assert again != folder
    assert (again / "a.jpg").read_bytes() == b"A"


def test_a_zip_file_at_an_address(memory, tmp_path) -> None:
    memory.pipe({"/pets/rex.zip": packed(tmp_path / "rex.zip", {"rex/a.jpg": b"a"}).read_bytes()})
    assert names(fetch("memory://pets/rex.zip", tmp_path / "kept")) == ["a.jpg"]


def test_a_folder_of_this_machine_by_its_address(tmp_path) -> None:
    (tmp_path / "rex").mkdir()
    (tmp_path / "rex" / "a.jpg").write_bytes(b"a")
    assert names(fetch(f"file://{tmp_path}/rex/", tmp_path / "kept")) == ["a.jpg"]


def test_what_cannot_be_fetched(memory, tmp_path, monkeypatch) -> None:
    with pytest.raises(DataError, match="there is no file at memory://pets/none; write the address of the folder"):
        fetch("memory://pets/none", tmp_path)
    with pytest.raises(DataError, match=r"there is nothing at memory://pets/none\.zip"):
        fetch("memory://pets/none.zip", tmp_path)
    with pytest.raises(DataError, match=r"ftp:// is none of s3://, gs://, hf://"):
        fetch("ftp://pets/rex", tmp_path)
    memory.pipe({f"/pets/rex/{n}.jpg": b"a" for n in range(3)})
    monkeypatch.setattr(bounds, "MAX_FILES", 2)
    with pytest.raises(DataError, match="memory://pets/rex holds 3 files; at most 2 are read"):
        fetch("memory://pets/rex", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_store_that_does_not_answer_is_told_in_a_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"hf://datasets/me/pets/rex cannot be fetched: .*; check address and access"):
        fetch("hf://datasets/me/pets/rex", tmp_path)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_package_that_is_missing_is_named(scheme, package, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lorafleet_jobs.fetching.remote_folder.find_spec", lambda name: None)
    with pytest.raises(DataError, match=f"{scheme}://bucket/rex needs {package}; run: pip install {package}"):
        fetch(f"{scheme}://bucket/rex", tmp_path)
    assert STORES[scheme].package == package


@pytest.mark.parametrize(
    ("written", "scheme"),
    [
        ("s3://b/rex", "s3"),
        ("HF://datasets/x", "hf"),
        ("photos/rex", None),
        ("C:\\rex", None),
        ("a:b", None),
        ("", None),
    ],
)
def test_what_is_an_address(written, scheme) -> None:
    assert scheme_of(written) == scheme
