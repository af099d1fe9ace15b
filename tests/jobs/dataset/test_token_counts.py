"""Counting tokens without torch comes to what training and serving encode."""

import json
import re
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPTokenizer

from lorafleet.bases import Base, find_base
from lorafleet.limits import MAX_CHUNKS
from lorafleet.numerics.long_prompts import Weighted, chunks
from lorafleet.numerics.text import split_prompt, text_ids
from lorafleet_jobs.dataset.token_counts import Counter, counter_of
from lorafleet_jobs.intake.prepare import examine

BASE = find_base("toy-sdxl")
TOKENIZERS = [CLIPTokenizer.from_pretrained(BASE.path / part) for part in ("tokenizer", "tokenizer_2")]


LEARNED = (10**6, 10**6 + 1, 10**6 + 2, 10**6 + 3)
"""Ids that no text has."""


class Encoder:
    """What `chunks` asks of a `PromptEncoder`; no weights are needed to count."""

    length = int(TOKENIZERS[0].model_max_length)

    def piece_ids(self, i: int, piece: str | tuple[int, ...]) -> list[int]:
        return text_ids(TOKENIZERS[i], piece) if isinstance(piece, str) else list(piece)


def counter() -> Counter:
    found = counter_of(BASE)
    assert found is not None
    return found


words = st.sampled_from(
    [
        "TOK",
        "TOK2",
        "dog",
        "photograph",
        "ÜBER",
        "猫",
        "!",
        "!!",
        "<|endoftext|>",
        "a,b",
        "it's",
        "3.14",
        "İ",
        " ",
        ">_<",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, max_size=120).map(" ".join) | st.text(max_size=200), st.sampled_from([0, 1, 4]))
def test_counts_are_those_of_what_is_encoded(text: str, learned: int) -> None:
    triggers = {"TOK": LEARNED[:learned], "TOK2": LEARNED[:learned]} if learned else {}
    prompt = [Weighted(piece) for piece in split_prompt(text, triggers)]
    encoded = [chunks(Encoder(), i, prompt) for i in (0, 1)]  # type: ignore[arg-type]
    assert counter().chunks(text, learned) == max(map(len, encoded))
    assert counter().tokens(text, learned) == max(sum(map(len, one)) for one in encoded)
    holding = [
        [i for i, one in enumerate(chunk_list, 1) if any(token == LEARNED[0] for token, _ in one)]
        for chunk_list in encoded
    ]
    assert counter().first_chunk(text, learned) == (max(where[0] for where in holding) if holding[0] else None)
    if counter().surely_fits(text, learned):
        assert counter().chunks(text, learned) == 1


def published(folder: Path) -> Base:
    """The toy's tokenizers as SDXL's are published: vocabulary and merges in a file each."""
    for part in ("tokenizer", "tokenizer_2"):
        model = json.loads((BASE.path / part / "tokenizer.json").read_text())["model"]
        (folder / part).mkdir(parents=True)
        (folder / part / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = "\n".join(one if isinstance(one, str) else " ".join(one) for one in model["merges"])
        (folder / part / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        config = json.loads((BASE.path / part / "tokenizer_config.json").read_text())
        pad = {"content": config["pad_token"], "lstrip": False}
        (folder / part / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad}))
    return Base("published", folder)


def test_vocabulary_and_merges_count_as_the_whole_file_does(tmp_path: Path) -> None:
    found = counter_of(published(tmp_path))
    assert found is not None
    assert found.room == 75
    for text in ("a photograph of TOK's ÜBER-dog, 3.14!! <|endoftext|>", "猫 " * 90, "so " * 200):
        assert found.tokens(text, 4) == counter().tokens(text, 4)


def test_a_base_without_tokenizers_is_not_judged(tmp_path: Path) -> None:
    assert counter_of(Base("none", tmp_path)) is None


def said(folder: Path, caption: str, subject: str = "", recipe: str = "{}") -> list[tuple[str, str]]:
    (folder / "rex").mkdir(exist_ok=True)
    for n in range(4):
        Image.new("RGB", (40, 40), (60 * n, 9, 90)).resize((40, 40)).save(folder / "rex" / f"{n}.png")
    (folder / "rex" / "0.txt").write_text(caption)
    text = f"name: m\nbase: toy-sdxl\nrecipe: {recipe}\nsubjects: [{{images: rex, class: dog{subject}}}]\n"
    (folder / "m.yaml").write_text(text)
    [report] = examine(folder / "m.yaml").reports
    return [(f.level, f.message) for f in report.findings if f.id == "D029"]


def test_long_captions_are_told_with_their_chunks(tmp_path: Path) -> None:
    assert said(tmp_path, "a TOK dog") == []
    room = counter().room
    [(level, message)] = said(tmp_path, "TOK " + "dog " * room)
    assert level == "warn"
    assert message.startswith(f"1 of 2 texts is longer than {room} tokens and trained in up to 2 chunks")
    assert message.endswith(", which takes longer: the caption of 0.png; shorten what need not be so long")
    prompt = "a photo of a dog " + "dog " * room + "TOK dog"
    [(level, message), _] = said(tmp_path, "a TOK dog", f', instance_prompt: "{prompt}"')
    assert (level, "the instance prompt" in message) == ("warn", True)
    [(_, message), _] = said(tmp_path, "TOK", recipe=f'{{caption: {{prefix: "{"dog " * 40}"}}}}')
    assert "the caption of 0.png" in message  # the prefix counts


def test_a_learned_word_behind_the_first_chunk_is_told(tmp_path: Path) -> None:
    room = counter().room
    several, late = said(tmp_path, "dog " * room + "TOK")
    assert "trained in up to 2 chunks" in several[1]
    told = (
        f"1 of the long texts names TOK only after the first {room} tokens: the caption of 0.png; it is trained there, "
    )
    told += "but not in the pooled embedding, which sees the first chunk alone: name it sooner"
    assert late == ("warn", told)
    assert len(said(tmp_path, "dog " * room + "TOK", recipe="{pivotal: null}")) == 1  # a word like any other
    assert len(said(tmp_path, "TOK " + "dog " * room + "TOK")) == 1


def test_a_caption_that_nobody_could_ask_for_is_an_error(tmp_path: Path) -> None:
    [(level, message)] = said(tmp_path, "TOK " + "dog " * (MAX_CHUNKS * counter().room))
    assert level == "error"
    size = re.search(r"the caption of 0.png \((\d+) tokens\)", message)
    assert size is not None
    assert int(size[1]) > MAX_CHUNKS * counter().room
    assert message.endswith(f"shorten to at most {MAX_CHUNKS * counter().room} tokens")


def test_checking_needs_no_torch(tmp_path: Path) -> None:
    said(tmp_path, "TOK " + "dog " * counter().room)
    code = (
        "import sys; from pathlib import Path; from lorafleet_jobs.intake.prepare import examine; "
        f"[report] = examine(Path({str(tmp_path / 'm.yaml')!r})).reports; "
        "assert any(one.id == 'D029' for one in report.findings); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
