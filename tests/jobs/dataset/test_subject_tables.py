"""Subjects from tables and from folders' names: as people and spreadsheets write them, and what is said if wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorafleet.config.load import load_manifest
from lorafleet.errors import ManifestError
from lorafleet_jobs.dataset.subjects import Subject, find_subjects
from lorafleet_jobs.intake.prepare import examine


def subjects(tmp_path: Path, table: str | bytes, entry: str = "{from: pets.csv}") -> list[Subject]:
    (tmp_path / "pets.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    (tmp_path / "m.yaml").write_text(f"name: m\nsubjects: {entry}\n")
    return find_subjects(load_manifest(tmp_path / "m.yaml"), tmp_path)


def shown(found: list[Subject]) -> list[tuple[str, str, str | None]]:
    return [(one.name, one.written, one.class_noun) for one in found]


def refused(tmp_path: Path, table: str | bytes, entry: str = "{from: pets.csv}") -> list[str]:
    with pytest.raises(ManifestError) as caught:
        subjects(tmp_path, table, entry)
    return [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).split("\n")]


WANTED = [("rex", "photos/rex", "dog"), ("mug-2", "photos/mug", "mug")]
ROWS = "folder,class,name\nphotos/rex,dog,\nphotos/mug,mug,mug-2\n"


@pytest.mark.parametrize(
    "table",
    [
        ROWS,
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        "sep=;\n" + ROWS.replace(",", ";"),
        ROWS.replace("\n", "\r\n"),
        "\ufeff" + ROWS,
        ROWS.encode("utf-16"),
        ROWS.replace("folder,class,name", " Path , CLASS,Subject "),
        ROWS.replace("folder,class,name", '"Images","Class","Name"'),
        ROWS.replace("\nphotos/mug", "\n,,\n\nphotos/mug"),  # empty lines, as spreadsheets leave them
        "notes,class,folder,name\n,dog,photos/rex\nbought 2024,mug,photos/mug,mug-2\n",
    ],
)
def test_a_table_as_it_comes_out_of_a_spreadsheet(tmp_path: Path, table: str | bytes) -> None:
    assert shown(subjects(tmp_path, table)) == WANTED


def test_a_table_beside_other_entries_and_what_its_entry_says_of_all_rows(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "mimi").mkdir()
    table = "images,class,prompt,preset\nrex,,,\nada,person,a portrait of TOK,face\n"
    found = subjects(tmp_path, table, '[{from: pets.csv, class: dog, recipe: {rank: 4}}, {glob: "cats/*", class: cat}]')
    assert shown(found) == [("rex", "rex", "dog"), ("ada", "ada", "person"), ("mimi", "cats/mimi", "cat")]
    assert [one.preset for one in found] == [None, "face", None]
    assert [one.recipe for one in found] == [{"rank": 4}, {"rank": 4}, None]
    assert found[1].instance_prompt == "a portrait of TOK"
    assert [str(one.places["class"].short) for one in found[:2]] == ["pets.csv:2", "pets.csv:3"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", ["pets.csv: the table is empty; begin it with a line of columns, as in images,class,name"]),
        ("folder,class\n", ["pets.csv:1: there is no row below the columns; give a folder and a class in each"]),
        ("photos/rex,dog\n", ["pets.csv:1: there is no column of folders among photos/rex, dog; head it images, path"]),
        ("folder,clas\nrex,dog\n", ["pets.csv:1: column 'clas' is not known; did you mean 'class'?"]),
        ("folder,Path\nrex,dog\n", ["pets.csv:1: columns 'folder' and 'Path' both say images; remove one of them"]),
        ("folder,class,name\n,dog,\nrex,dog,Rex!\nada,person,Ada Ö\n", [
            "pets.csv:2: the row names no folder; give one, or remove the row",
            "pets.csv:3: name is 'Rex!'; it must be 1 to 64 small letters, digits, dots, dashes and underscores",
            "pets.csv:4: name is 'Ada Ö'; it must be 1 to 64 small letters",
        ]),
        ("folder,class\nrex,dog,and more\n", ["pets.csv:2: the row has 3 cells, the columns are 2; put what holds"]),
        ('folder,class\n"rex,dog\n', ["pets.csv:2: not CSV: a quote that is opened there is not closed; correct"]),
        (b"PK\x03\x04 workbook", ["m.yaml: 'pets.csv' is a workbook; save its sheet as CSV, and name that file"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_by_file_and_line(tmp_path: Path, table: str | bytes, said: list[str]) -> None:
    found = refused(tmp_path, table)
    assert len(found) == len(said), found
    assert all(
        line.replace("the manifest", "m.yaml").startswith(wanted) for line, wanted in zip(found, said, strict=True)
    )


def test_a_table_that_is_missing_and_bad_presets_are_told_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "pets.csv").write_text("path;class;preset\nrex;dog;fase\n")
    text = "name: m\nsubjects:\n  - from: nope.csv\n  - from: pets.csv\n    clas: dog\nresources: {lanes: 0}\n"
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ManifestError) as caught:
        examine(tmp_path / "m.yaml")
    lines = [line.removeprefix(f"{tmp_path}/") for line in str(caught.value).split("\n")]
    assert [line[:60] for line in lines] == [
        "m.yaml:3:11: from is 'nope.csv', and there is no such file t",
        "m.yaml:5:5: unknown key 'subjects[1].clas'; did you mean 'cl",
        "m.yaml:6:20: resources.lanes is 0; it must be at least 1",
        "pets.csv:2: row.preset is 'fase'; it must be one of characte",
        f"pets.csv:2: subjects[1].images: no folder 'rex' ({tmp_path})"[:60],
    ]


def test_a_mapping_in_the_place_of_the_list_keeps_its_places(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("name: m\nsubjects:\n  from: 5\n  clas: dog\n")
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path / "m.yaml")
    first, second = (line.removeprefix(f"{tmp_path}/") for line in str(caught.value).split("\n"))
    assert first == 'm.yaml:3:9: subjects[0].from is 5; it must be text or null; put it in quotes: "5"'
    assert second == "m.yaml:4:3: unknown key 'subjects[0].clas'; did you mean 'class'?"


def test_findings_about_a_row_name_the_table_and_its_line(tmp_path: Path) -> None:
    subjects(tmp_path, "folder,class\nnowhere,\n")
    [report] = examine(tmp_path / "m.yaml").reports
    assert [finding.message[:22] for finding in report.findings] == ["pets.csv:2: no class; ", "pets.csv:2: no folder "]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("dog-rex", "mug-blue-2", "teddy_bear-bruno", "unnamed", "dog", "pets/cat/mimi"):
        (tmp_path / "Photos" / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("Photos/{class}-{name}", [("rex", "dog"), ("blue-2", "mug"), ("bruno", "teddy bear")]),
        ("Photos/{class}-*", [("dog-rex", "dog"), ("mug-blue-2", "mug"), ("teddy_bear-bruno", "teddy bear")]),
        ("Photos/pets/{class}/*", [("mimi", "cat")]),
        ("Photos/pets/{class}/{name}", [("mimi", "cat")]),
        ("Photos/[dm]*-{name}", [("rex", None), ("blue-2", None)]),
        ("$PHOTOS/{class}-rex", [("dog-rex", "dog")]),
    ],
)
def test_class_and_name_from_a_folders_name(
    photos: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, found: list[tuple[str, str | None]]
) -> None:
    monkeypatch.setenv("PHOTOS", str(photos / "Photos"))
    assert [(one.name, one.class_noun) for one in subjects(photos, "", f'[{{glob: "{pattern}"}}]')] == found


def test_folders_whose_names_do_not_fit_are_named(photos: Path) -> None:
    (photos / "m.yaml").write_text('name: m\nsubjects: [{glob: "Photos/{class}-{name}"}]\n')
    said = [finding for finding in examine(photos / "m.yaml").reports[0].findings if "do not fit" in finding.message]
    assert [(finding.id, finding.level) for finding in said] == [("D028", "warn")]
    assert "Photos/dog, Photos/pets, Photos/unnamed; rename them" in said[0].message


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ('{glob: "a/{class}-*", class: dog}', "class is given, and glob takes it from the folders' names by {class};"),
        ('{glob: "**/{class}-*"}', "glob holds both ** and {class}; write a * for each folder in the place of **"),
        ('{glob: "a/{name}-{name}"}', "glob holds {name} twice; write * in the place of one of them"),
        ("{from: a.csv, name: rex}", "subjects of a table are named in it; leave name out"),
        ("{from: a.csv, images: rex}", "give one of images (one folder), glob (a subject for each folder) and from"),
    ],
)
def test_entries_that_contradict_themselves(tmp_path: Path, entry: str, said: str) -> None:
    [line] = refused(tmp_path, "", f"[{entry}]")
    assert said in line
