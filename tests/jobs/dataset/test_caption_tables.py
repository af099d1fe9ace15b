"""Tables of captions in every dialect that programs write come to the same captions."""

import csv
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lorafleet_jobs.dataset.captions import read_captions

IMAGES = ("a.jpg", "b.jpg", "c.jpg")


def texts(alphabet: str) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=1, max_size=12).map(lambda text: " ".join(text.split())).filter(bool)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(texts("TOK dgé,;|\t\"'<>_猫="), min_size=1, max_size=3),
    st.sampled_from(",;\t|"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from([("file_name", "prompt"), ("File Name", "Prompt"), ("FILE", "TEXT"), ("caption", "image")]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    st.booleans(),
)
def test_a_table_says_the_same_in_every_dialect(
    written: list[str], delimiter: str, quoting: int, header: tuple[str, str], end: str, encoding: str, sep: bool
) -> None:
    wanted = dict(zip(IMAGES, written, strict=False))
    stream = StringIO(newline="")
    stream.write(f"sep={delimiter}{end}" if sep else "")
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end)
    turned = header[0] == "caption"
    writer.writerows([header, *((text, image) if turned else (image, text) for image, text in wanted.items())])
    with TemporaryDirectory() as folder:
        (Path(folder) / "metadata.csv").write_bytes(stream.getvalue().encode(encoding))
        result = read_captions(Path(folder), IMAGES, ["metadata.csv"], "prompt")
    assert (result.by_file, result.findings) == (wanted, [])


@settings(max_examples=100, deadline=None)
@given(
    st.lists(texts("TOK dgé,;|<>_猫=").map(lambda text: text + "g"), min_size=1, max_size=3), st.sampled_from(",;\t|")
)
@example(["TOK, TOK ;d"], ",")
def test_no_text_of_an_unquoted_caption_is_lost(written: list[str], delimiter: str) -> None:
    wanted = dict(zip(IMAGES, written, strict=False))
    lines = [f"{image}{delimiter}{text}" for image, text in wanted.items()]
    with TemporaryDirectory() as folder:
        (Path(folder) / "metadata.csv").write_text("\n".join([f"file_name{delimiter}prompt", *lines]), "utf-8")
        result = read_captions(Path(folder), IMAGES, ["metadata.csv"], "prompt")
    assert result.by_file == wanted
    cut = [line for line, text in enumerate(written, start=2) if delimiter in text]
    assert [finding.id for finding in result.findings] == (["D031"] if cut else [])
    assert all(str(line) in finding.message for finding in result.findings for line in (cut[0], cut[-1]))
