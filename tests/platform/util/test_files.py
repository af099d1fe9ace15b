"""Files and folders that are seen whole or not at all, and locks between processes."""

import os
import subprocess
import sys
from contextlib import closing

import pytest

from lorafleet.util import files
from lorafleet.util.files import replace_folder, whole_folder, write_whole
from lorafleet.util.locked import file_lock, locked


@pytest.fixture
def synced(monkeypatch):
    """The paths that were synced, in order, as they were called then."""
    paths, sync = [], os.fsync

    def record(handle):
        paths.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", record)
    return paths


def test_a_file_and_its_name_are_on_disk_when_writing_returns(tmp_path, synced):
    path = tmp_path / "deep" / "er" / "file"
    for data in (b"first", b"second"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
    assert synced[1] == synced[3] == str(path.parent)
    assert synced[0].startswith(f"{path.parent}/.file.")
    write_whole(path, b"third", synced=False)
    assert (path.read_bytes(), len(synced)) == (b"third", 4)


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken" / "inner").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "taken", b"data")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_a_folder_takes_the_place_of_another_whole_and_is_on_disk(tmp_path, synced):
    target = tmp_path / "a" / "folder"
    for text in ("old", "new"):
        with whole_folder(target) as scratch:
            (scratch / text).write_text(text)
            assert text != "new" or (target / "old").read_text() == "old"
    assert [entry.name for entry in target.parent.iterdir()] == ["folder"]
    assert [entry.name for entry in target.iterdir()] == ["new"]
    file, folder, parent = synced[3:]
    assert (file, parent) == (f"{folder}/new", str(target.parent))


def test_a_folder_that_is_not_finished_leaves_the_old_one_and_nothing_else(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(RuntimeError), whole_folder(target) as scratch:  # noqa: PT012
        (scratch / "half").touch()
        raise RuntimeError
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
    assert [entry.name for entry in target.iterdir()] == ["old"]


def test_whoever_has_a_replaced_folders_files_open_keeps_them(tmp_path):
    target, new = tmp_path / "folder", tmp_path / "new"
    for path, text in ((target, "old"), (new, "new")):
        path.mkdir()
        (path / "file").write_text(text)
    with (target / "file").open() as file:
        replace_folder(new, target)
        assert (file.read(), (target / "file").read_text()) == ("old", "new")


def test_shared_locks_exclude_an_exclusive_one_and_not_each_other(tmp_path):
    path = tmp_path / "locks" / "lock"
    with locked(path, shared=True), closing(locked(path, shared=True, wait=False)), pytest.raises(BlockingIOError):
        locked(path, wait=False)
    with locked(path, wait=False), pytest.raises(BlockingIOError):
        locked(path, shared=True, wait=False)


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from lorafleet.util.locked import locked\n"
        "lock = locked(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError):
        locked(path, wait=False)
    holder.kill()
    holder.communicate()
    locked(path, wait=False).close()


def test_a_lock_file_is_made_with_its_folder(tmp_path):
    with file_lock(tmp_path / "new" / "lock"), pytest.raises(BlockingIOError):
        locked(tmp_path / "new" / "lock", wait=False)
