"""Zip files of photographs: unpacked once, whatever made them; none writes outside its folder or fills a disk."""

import stat
import warnings
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from subject_folders import packed

from lorafleet.errors import DataError
from lorafleet_jobs.fetching import bounds
from lorafleet_jobs.fetching.zip_file import unpack


def unpacked(tmp_path: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    folder = unpack(packed(tmp_path / "rex.zip", files), "rex.zip", tmp_path / "kept")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        ({"a.jpg": b"a", "b.txt": b"b"}, {"a.jpg": b"a", "b.txt": b"b"}),
        ({"rex/": b"", "rex/a.jpg": b"a", "rex/b.jpg": b"b"}, {"a.jpg": b"a", "b.jpg": b"b"}),
        ({"my photos/rex/a.jpg": b"a"}, {"a.jpg": b"a"}),
        ({"rex/a.jpg": b"a", "mimi/a.jpg": b"b"}, {"rex/a.jpg": b"a", "mimi/a.jpg": b"b"}),
        ({"rex/a.jpg": b"a", "rex/more/b.jpg": b"b"}, {"a.jpg": b"a", "more/b.jpg": b"b"}),
        ({"rex\\a.jpg": b"a", "rex\\b.jpg": b"b"}, {"a.jpg": b"a", "b.jpg": b"b"}),
        ({"rex/a.jpg": b"a", "__MACOSX/rex/._a.jpg": b"?", "rex/.DS_Store": b"?", "Thumbs.db": b"?"}, {"a.jpg": b"a"}),
        ({"Müsli.jpg": b"a", "猫.jpg": b"b"}, {"Müsli.jpg": b"a", "猫.jpg": b"b"}),
        ({}, {}),
    ],
)
def test_what_is_in_it(tmp_path, files, kept) -> None:
    assert unpacked(tmp_path, files) == kept


def test_the_folder_is_the_contents_and_is_made_once(tmp_path) -> None:
    one = packed(tmp_path / "one.zip", {"a.jpg": b"a"})
    (tmp_path / "two.ZIP").write_bytes(one.read_bytes())
    folder = unpack(one, "one", tmp_path / "kept")
    (folder / "witness").touch()
    assert unpack(tmp_path / "two.ZIP", "two", tmp_path / "kept") == folder
    assert (folder / "witness").exists()
    assert unpack(packed(one, {"a.jpg": b"other"}), "one", tmp_path / "kept") != folder


@pytest.mark.parametrize(
    "name", ["../a.jpg", "rex/../../a.jpg", "/etc/a.jpg", "C:/a.jpg", "..\\a.jpg", "__MACOSX/../../a"]
)
def test_no_name_leads_out_of_the_folder(tmp_path, name) -> None:
    with pytest.raises(DataError, match=r"rex\.zip holds .* leads out of its folder; make it anew"):
        unpacked(tmp_path, {"b.jpg": b"b", name: b"a"})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["rex.zip"]


@given(st.lists(st.text(st.sampled_from("./\\ab:"), min_size=1, max_size=9), max_size=4, unique=True))
def test_whatever_names_are_files_stay_inside(tmp_path_factory, names) -> None:
    home = tmp_path_factory.mktemp("zip")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            unpacked(home, dict.fromkeys(names, b"x"))
    except DataError:
        pass
    outside = [path for path in home.rglob("*") if path.is_file() and (home / "kept") not in path.parents]
    assert [path.name for path in outside] == ["rex.zip"]


def test_links_passwords_and_two_of_a_name(tmp_path) -> None:
    link = ZipInfo("a.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"holds 'a\.jpg', which is a link"):
        unpack(tmp_path / "link.zip", "link.zip", tmp_path / "kept")

    locked = packed(tmp_path / "locked.zip", {"a.jpg": b"a"})
    data = bytearray(locked.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(data)
    with pytest.raises(DataError, match="protected by a password"):
        unpack(locked, "locked.zip", tmp_path / "kept")

    with pytest.raises(DataError, match=r"holds 'A\.jpg' twice"):
        unpacked(tmp_path, {"a.jpg": b"a", "A.jpg": b"b"})


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04" + bytes(60)])
def test_what_is_none(tmp_path, data) -> None:
    (tmp_path / "rex.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"rex\.zip is no zip file, or damaged"):
        unpack(tmp_path / "rex.zip", "rex.zip", tmp_path / "kept")


def test_damage_leaves_nothing(tmp_path) -> None:
    whole = packed(tmp_path / "rex.zip", {"a.jpg": bytes(range(256)) * 40, "b.jpg": b"b" * 999})
    data = bytearray(whole.read_bytes())
    data[60] ^= 255
    whole.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        unpack(whole, "rex.zip", tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


def test_bounds_hold_whatever_the_header_says(tmp_path, monkeypatch) -> None:
    bomb = packed(tmp_path / "bomb.zip", {"a.jpg": bytes(10**6), "b.jpg": bytes(10**6)})
    monkeypatch.setattr(bounds, "MAX_BYTES", 1_500_000)
    with pytest.raises(DataError, match=r"bomb\.zip holds 0\.0 GB of files; at most 0 are read"):
        unpack(bomb, "bomb.zip", tmp_path / "kept")
    data = bytearray(bomb.read_bytes())
    at = data.index(b"PK\x01\x02")
    while at >= 0:
        data[at + 24 : at + 28] = (10).to_bytes(4, "little")  # what the directory says of its size
        at = data.find(b"PK\x01\x02", at + 1)
    bomb.write_bytes(data)
    with pytest.raises(DataError, match=r"bomb\.zip is no zip file, or damaged \(Bad CRC"):
        unpack(bomb, "bomb.zip", tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())
    monkeypatch.setattr(bounds, "MAX_FILES", 2)
    with pytest.raises(DataError, match="holds 3 files; at most 2 are read"):
        unpacked(tmp_path, {"a": b"", "b": b"", "c": b""})
