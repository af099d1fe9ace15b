"""Captions beside images and in tables, as people and programs write them."""

import json
import unicodedata
from pathlib import Path

import pytest

from lorafleet_jobs.dataset.captions import Captions, read_captions

IMAGES = ("a.jpg", "b.jpg", "c.jpg")
Files = dict[str, str | bytes]


def captions(folder: Path, files: Files, images: tuple[str, ...] = IMAGES, column: str = "prompt") -> Captions:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_captions(folder, images, sorted(name for name in files if "/" not in name), column, {"rex"})


def found(result: Captions) -> list[tuple[str, str]]:
    return [(finding.id, finding.level) for finding in result.findings]


def said(result: Captions) -> str:
    return " | ".join(finding.message for finding in result.findings)


@pytest.mark.parametrize(
    "files",
    [
        {"a.txt": "a TOK dog"},
        {"a.TXT": "a TOK dog"},
        {"a.caption": "a TOK dog\n"},
        {"A.Txt": "a TOK dog"},
        {"a.jpg.txt": "a TOK dog"},
        {"a.json": '{"caption": "a TOK dog"}'},
        {"a.jpg.json": '{"Prompt": "a TOK dog"}'},
        {"a.json": '"a TOK dog"'},
        {"a.json": '{"tags": "a TOK dog"}'},
        {"a.json": '{"Tags": ["a TOK dog"]}'},
        {"metadata.csv": "path,text\na.jpg,a TOK dog\n"},
        {"metadata.csv": "Image;Caption\na.jpg;a TOK dog\n"},
        {"metadata.csv": "filename|TEXT\na.jpg|a TOK dog\n".encode("utf-16")},
        {"metadata.jsonl": '{"path": "img/a.jpg", "caption": "a TOK dog"}'},
        {"a.txt": "\ufeffa TOK dog\r\n"},
        {"a.txt": "a TOK dog".encode("utf-16")},
        {"a.txt": "a TOK dog".encode("utf-16-le")},
        {"a.txt": "a TOK dog".encode("utf-16-be")},
        {"a.txt": "", "a.caption": "a TOK dog"},
        {"a.txt": "", "metadata.csv": "file_name,prompt\na.jpg,a TOK dog\n"},
        {"a.txt": "a TOK dog", "metadata.csv": "file_name,prompt\na.jpg,a  TOK dog\n"},
        {"metadata.jsonl": '{"file_name": "a.jpg", "prompt": "a  TOK dog"}\n\n{"file_name": "b.jpg"}\n'},
        {"metadata.jsonl": '{"file_name": "a.jpg", "text": "a TOK dog"}'},
        {"metadata.jsonl": '{"file_name": "a.jpg", "tags": "a TOK dog"}'},
        {"metadata.jsonl": '{"File_Name": "a.jpg", "Caption": "a TOK dog"}'},
        {"metadata.csv": "file_name;prompt\na.jpg;a TOK dog\n"},
        {"metadata.csv": "file_name\tprompt\na.jpg\ta TOK dog\n"},
        {"metadata.csv": "file_name|prompt\na.jpg|a TOK dog\n"},
        {"metadata.csv": "File Name,Prompt\r\na.jpg,a TOK dog\r\n"},
        {"metadata.csv": "sep=,\r\nfile_name,prompt\r\na.jpg,a TOK dog\r\n"},
        {"metadata.csv": 'sep=;\n"file_name";"prompt"\n"a.jpg";"a TOK dog";;\n\n;\n'},
        {"metadata.csv": "\ufefffile_name,prompt\na.jpg,a TOK dog\n"},
        {"metadata.csv": "file_name,prompt\na.jpg,a TOK dog\n".encode("utf-16")},
        {"metadata.csv": "file_name,prompt,,\na.jpg,a TOK dog,,\n"},
        {"METADATA.CSV": "file_name,prompt\na.jpg,a TOK dog\n"},
        {"metadata.tsv": "file_name\tprompt\na.jpg\ta TOK dog\n"},
        {"captions.json": '{"a.jpg": "a TOK dog"}'},
        {"captions.json": '{"/data/rex/a": {"caption": "a TOK dog"}}'},
        {"metadata.json": '[{"file_name": "a.jpg", "prompt": "a TOK dog"}]'},
    ],
)
def test_captions_are_read(tmp_path: Path, files: Files) -> None:
    result = captions(tmp_path, files)
    assert result.by_file == {"a.jpg": "a TOK dog"}
    assert [one for one in found(result) if one[0] != "D010"] == []
    assert result.files == set(files)


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("./a.jpg", "a.jpg"),
        ("rex\\a.jpg", "a.jpg"),
        ("C:\\photos\\rex\\a.jpg", "a.jpg"),
        ("train/a.jpg", "a.jpg"),
        ("/elsewhere/a.jpg", "a.jpg"),
        ("a.JPG", "a.jpg"),
        ("a", "a.jpg"),
        (unicodedata.normalize("NFD", "Müsli.jpg"), "Müsli.jpg"),
        ("X.png", "X.png"),
        ("x.PNG", None),  # of two
        ("../a.jpg", None),
        ("below/a.jpg", None),  # there, and another file
        ("d.jpg", None),
        ("a.png", None),
        ("", None),
        ("a\0.jpg", None),
    ],
)
def test_names_in_tables_mean_the_one_image_that_they_can_mean(tmp_path: Path, written: str, image: str | None) -> None:
    images = ("a.jpg", "b.jpg", "Müsli.jpg", "x.png", "X.png")
    rows = [{"file_name": "b.jpg", "prompt": "b"}, {"file_name": written, "prompt": "TOK"}]
    files: Files = {"metadata.jsonl": "\n".join(map(json.dumps, rows)), "below/a.jpg": b""}
    result = captions(tmp_path, files, images)
    assert result.by_file == {"b.jpg": "b"} | ({image: "TOK"} if image else {})
    assert found(result) == ([] if image else [("D022", "warn")])
    if image is None:
        assert f"metadata.jsonl line 2 names {written!r}, which is no image of this folder" in said(result)


@pytest.mark.parametrize(
    ("image", "file", "ours"),
    [
        (unicodedata.normalize("NFD", "Müsli.jpg"), "Müsli.txt", True),
        ("Müsli.jpg", unicodedata.normalize("NFD", "Müsli.txt"), True),
        ("a.b.jpg", "a.b.txt", True),
        ("a.b.jpg", "a.txt", False),
        ("İ.jpg", "i.txt", False),
    ],
)
def test_a_file_is_beside_the_image_of_its_name(tmp_path: Path, image: str, file: str, ours: bool) -> None:
    result = captions(tmp_path, {file: "TOK"}, (image,))
    assert result.by_file == ({image: "TOK"} if ours else {})
    assert found(result) == ([] if ours else [("D030", "warn")])


def test_two_images_that_differ_by_their_suffix_share_a_file_and_by_case_do_not(tmp_path: Path) -> None:
    assert captions(tmp_path, {"a.txt": "TOK"}, ("a.jpg", "a.png")).by_file == {"a.jpg": "TOK", "a.png": "TOK"}
    assert captions(tmp_path, {"a.txt": "TOK"}, ("a.jpg", "A.jpg")).by_file == {"a.jpg": "TOK"}


@pytest.mark.parametrize(
    ("files", "id", "level", "words"),
    [
        ({"metadata.jsonl": '{"file_name": "a.jpg", "x": "TOK", "y": ""}'}, "D021", "error",
         "metadata.jsonl has no column 'prompt', only file_name, x, y; set caption_column"),
        ({"metadata.csv": "name,prompt\na,b\n"}, "D021", "error",
         "metadata.csv has no column 'file_name', only name, prompt; add it"),
        ({"metadata.csv": "a.jpg,a TOK dog\nb.jpg,x\n"}, "D021", "error",
         "metadata.csv has no line of column names; begin it with file_name,prompt"),
        ({"metadata.csv": "file_name,prompt,prompt\na.jpg,b,c\n"}, "D021", "error", "two columns 'prompt'"),
        ({"metadata.jsonl": '{"file_name": "a.jpg", "prompt": "TOK"}\n{]'}, "D022", "error",
         "metadata.jsonl line 2 is not JSON"),
        ({"metadata.jsonl": "[1]"}, "D022", "error", "metadata.jsonl line 1 is not a JSON object"),
        ({"metadata.jsonl": '{"file_name": "a.jpg", "prompt": "x", "prompt": "y"}'}, "D022", "error",
         "key 'prompt' twice in one object"),
        ({"metadata.jsonl": '{"file_name": "a.jpg", "prompt": 5}'}, "D022", "error", "the caption is 5; give text"),
        ({"metadata.jsonl": '{"file_name": "../a.jpg", "prompt": "TOK"}'}, "D022", "error",
         "no line of metadata.jsonl names an image of this folder (line 1: '../a.jpg'); did you mean 'a.jpg'?"),
        ({"metadata.jsonl": '{"file_name": [], "prompt": "TOK"}'}, "D022", "error", "(line 1: [])"),
        ({"metadata.csv": "file_name,prompt,x\na.jpg,a TOK dog, on grass,1\n"}, "D022", "error",
         "metadata.csv line 2 has 4 fields, the column names are 3; put what holds a ',' in quotes"),
        ({"metadata.csv": 'file_name,prompt\na.jpg,"a TOK dog\nb.jpg,TOK\n'}, "D022", "error",
         "metadata.csv line 2 is not CSV (a quote that is opened there is not closed); correct it"),
        ({"metadata.csv": 'file_name,prompt\na.jpg,"a TOK dog\nb.jpg,TOK\nc.jpg,"x"\n'}, "D022", "error",
         "metadata.csv line 2"),
        ({"metadata.csv": 'file_name,prompt\na.jpg,"a TOK dog\nb.jpg,TOK "\nc.jpg,x\n'}, "D022", "error",
         "metadata.csv line 2: a quote that is opened there runs over the lines below; close it"),
        ({"metadata.csv": 'file_name,prompt\na.jpg,"TOK" dog\n'}, "D022", "error", "metadata.csv line 2 is not CSV"),
        ({"a.txt": b"TOK \x81"}, "D022", "error", "a.txt is not UTF-8 (byte 4); save it as UTF-8"),
        ({"a.txt": b"\xff\xfeT"}, "D022", "error", "a.txt is not UTF-16"),
        ({"a.txt": "a <rex> dog"}, "D014", "error", "holds '<rex>'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_an_error(tmp_path: Path, files: Files, id: str, level: str, words: str) -> None:  # noqa: A002
    result = captions(tmp_path, files)
    assert found(result) == [(id, level)]
    assert words in said(result)


@pytest.mark.parametrize(
    ("files", "kept", "expected", "words"),
    [
        ({"metadata.csv": "file_name,prompt\na.jpg,a TOK dog, on grass,in rain\n"}, "a TOK dog, on grass,in rain",
         ("D031", "warn"), "metadata.csv line 2: a caption with a ',' that is not in quotes was read up to the end"),
        ({"metadata.csv": "file_name,prompt\na.jpg,a TOK dog at café\n".encode("latin-1")}, "a TOK dog at café",
         ("D031", "warn"), "metadata.csv: not UTF-8, read as Windows-1252"),
        ({"a.txt": "a TOK dog at café".encode("latin-1")}, "a TOK dog at café", ("D031", "warn"), "a.txt: not UTF-8"),
        ({"a.txt": "a TOK dog\na painting of TOK\n"}, "a TOK dog a painting of TOK", ("D031", "info"),
         "a.jpg (a.txt): a caption of several lines was joined to one"),
        ({"metadata.csv": 'file_name,prompt\na.jpg,"TOK\ndog"\n'}, "TOK dog", ("D031", "info"),
         "a.jpg (metadata.csv line 2)"),
        ({"metadata.csv": "file_name,prompt,x,y\na.jpg,TOK,1,2\n"}, "TOK", ("D030", "info"),
         "metadata.csv has columns that are not used: x, y"),
        ({"metadata.csv": ",file_name,prompt\n0,a.jpg,TOK\n"}, "TOK", ("D030", "info"), "not used: (unnamed)"),
        ({"metadata.jsonl": '{"file_name": "a.jpg", "prompt": "TOK", "text": "more"}'}, "TOK", ("D030", "warn"),
         "metadata.jsonl has several columns of captions; 'prompt' is used, not text; set caption_column to choose"),
        ({"metadata.csv": "text,Caption,image\nmore,TOK,a.jpg\n"}, "TOK", ("D030", "warn"),
         "metadata.csv has several columns of captions; 'Caption' is used, not text; set caption_column to choose"),
        ({"a.json": '{"text": "more", "caption": "TOK"}'}, "TOK", ("D030", "info"),
         "a.json has keys that are not used: text"),
        ({"a.json": '{"caption": "TOK", "score": 5, "tags": []}'}, "TOK", ("D030", "info"),
         "a.json has keys that are not used: score, tags"),
        ({"metadata.jsonl": '{"file_name": "a.jpg", "prompt": "1"}\n{"file_name": "./a.jpg", "prompt": "2"}'}, "2",
         ("D030", "warn"), "metadata.jsonl lines 1-2 give a.jpg two captions; line 1's is not used"),
        ({"metadata.csv": "file_name,prompt\na.jpg,lost\n", "metadata.jsonl": '{"file_name": "a.jpg", "prompt": "x"}'},
         "x", ("D030", "warn"), "metadata.csv not read beside metadata.jsonl; put all captions in one"),
        ({"a.txt": "x", "metadata.csv": "file_name,prompt\na.jpg,lost\n"}, "x", ("D030", "warn"),
         "metadata.csv: its captions of a.jpg are not used, each has a file of its own"),
        ({"a.txt": "x", "a.caption": "lost"}, "x", ("D030", "warn"), "a.jpg has two captions: a.txt is used, a"),
        ({"a.txt": "x", "a.jpg.txt": "lost"}, "x", ("D030", "warn"), "a.txt is used, a.jpg.txt is not; remove one"),
        ({"a.txt": "x", "z.txt": "lost"}, "x", ("D030", "warn"), "z.txt belongs to no image and is not used"),
        ({"a.txt": "x", "b.tags": "1", "b.yaml": "1"}, "x", ("D030", "warn"),
         "2 files look like captions and are not read: b.tags, b.yaml; write captions as name.txt beside name.jpg"),
        ({"a.txt": "x", "b.json": '{"prompt": [1]}', "c.json": "{"}, "x", ("D030", "warn"),
         "2 files look like captions and are not read: b.json, c.json"),
        ({"a.txt": "x", "captions.csv": "some,thing\n1,2\n"}, "x", ("D030", "warn"),
         "captions.csv looks like captions and is not read: captions.csv has no column 'file_name'"),
        ({"a.txt": "x", "captions.json": "[1]"}, "x", ("D030", "warn"), "captions.json looks like captions and is not"),
        ({"a.txt": "x", "b.txt": " \n"}, "x", ("D010", "info"), "the captions of b.jpg (b.txt) are empty"),
        ({"metadata.jsonl": '{"file_name": "a.jpg", "prompt": "x"}\n{"file_name": "b.jpg"}'}, "x", ("D010", "info"),
         "the captions of b.jpg (metadata.jsonl line 2) are empty; the instance prompt stands in"),
    ],
)  # fmt: skip
def test_what_is_lost_or_changed_is_told(
    tmp_path: Path, files: Files, kept: str, expected: tuple[str, str], words: str
) -> None:
    result = captions(tmp_path, files)
    assert result.by_file == {"a.jpg": kept}
    assert found(result) == [expected]
    assert words in said(result)
    assert result.files == set(files)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("D015", "error")),
        ("a.caption", ("D015", "error")),
        ("metadata.csv", ("D015", "error")),
        ("a.json", ("D030", "warn")),
        ("captions.csv", ("D030", "warn")),
    ],
)
def test_a_link_out_of_the_folder_is_never_read(tmp_path: Path, name: str, expected: tuple[str, str]) -> None:
    (tmp_path / "secret").write_text('{"prompt": "secret"}')
    (tmp_path / "rex").mkdir()
    (tmp_path / "rex" / name).symlink_to(tmp_path / "secret")
    result = read_captions(tmp_path / "rex", IMAGES, [name], "prompt")
    assert (found(result), result.by_file, result.files) == ([expected], {}, {name})
    assert name in said(result)


@pytest.mark.parametrize(
    ("document", "expected", "rest"),
    [
        ('{"tags": ["TOK", "1dog", ">_<"], "score": 1}', "TOK, 1dog, >_<", "score"),
        ('{"tags": ["TOK"], "caption": " "}', "TOK", "caption"),
        ('{"tags": [1], "caption": "a TOK dog"}', "a TOK dog", "tags"),
    ],
)
def test_tags_are_a_caption_where_there_is_no_other(tmp_path: Path, document: str, expected: str, rest: str) -> None:
    result = captions(tmp_path, {"a.json": document})
    assert (result.by_file, said(result)) == ({"a.jpg": expected}, f"a.json has keys that are not used: {rest}")


def test_another_column_must_be_there(tmp_path: Path) -> None:
    result = captions(tmp_path, {"metadata.csv": "file_name,text\na.jpg,TOK\n"}, column="tags")
    assert (found(result), result.by_file) == ([("D021", "error")], {})


def test_lines_that_name_nothing_are_one_finding(tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,{n}\n" for n in range(20))
    result = captions(tmp_path, {"metadata.csv": f"file_name,prompt\n{rows}a.jpg,TOK\n30.jpg,x\n"})
    assert (found(result), result.by_file) == ([("D022", "warn")], {"a.jpg": "TOK"})
    assert "metadata.csv lines 2-21, 23 name '0.jpg', '1.jpg'" in said(result)


def test_what_is_beside_no_image_and_no_caption_is_left_to_others(tmp_path: Path) -> None:
    result = captions(tmp_path, {"README.txt": "x", "a.xmp": "<x/>", "model.json": "{}", "b.npz": b"\0"})
    assert (result.findings, result.files) == ([], set())


def test_a_caption_may_hold_the_name_of_an_image(tmp_path: Path) -> None:
    text = 'file_name,prompt\ncat.jpg,"cat\ncat, sleeping"\n'
    assert captions(tmp_path, {"metadata.csv": text}, ("cat.jpg",)).by_file == {"cat.jpg": "cat cat, sleeping"}
