"""Findings about what a subject is trained with in words: name, class, prompt, captions and their lengths."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lorafleet.limits import MAX_CHUNKS
from lorafleet_jobs.dataset.captions import Captions
from lorafleet_jobs.dataset.findings import Finding, error, finding, reserved_text, some
from lorafleet_jobs.dataset.subjects import Subject
from lorafleet_jobs.dataset.token_counts import Counter
from lorafleet_jobs.jobspec import ImageSpec

_TOKEN = re.compile(r"\bTOK\b")


@dataclass(frozen=True)
class Texts:
    """What all recipes of a submission ask of texts together."""

    token: bool = True
    """Whether `TOK` is learned, so that prompts must hold it."""
    prefixes: tuple[str, ...] = ("",)
    """What comes before every caption, and may hold `TOK` in its place: each recipe's."""
    learned: int = 0
    """The most tokens that a learned word stands for."""
    counter: Counter | None = None
    """Of the base; None: lengths are not judged."""


def about_words(subject: Subject, texts: Texts, adapters: Collection[str]) -> Iterator[Finding]:
    """What the manifest says of a subject; `adapters` are those of the submission."""
    if not subject.name:
        remedy = (
            "rename it, or list it by itself with images: and name:" if subject.of_glob else "add name: to the subject"
        )
        yield error("D019", f"no name can be made of folder {subject.written!r}; {remedy}")
    if subject.class_noun is None or subject.class_noun.strip() in ("", "?"):
        yield error("D016", "no class; add class: with the word for what it is, as in class: dog")
    prompt = subject.instance_prompt
    for words in (prompt, subject.class_noun):
        if words and (reserved := reserved_text(words, adapters)) is not None:
            yield error("D014", f"{words!r} holds {reserved!r}, which is reserved; remove it")
    if texts.token and prompt is not None and not _TOKEN.search(prompt):
        yield error(
            "D011", f"instance prompt {prompt!r} lacks TOK, the word to be learned; write it in, as in 'a TOK dog'"
        )


def about_idle(captions: Captions, used: Collection[str]) -> Iterator[Finding]:
    """Captions of images that cannot be read and are left out themselves."""
    if idle := [f"{image} ({source})" for image, source in captions.sources.items() if image not in used]:
        message = f"captions not used, their images are not trained on: {some(idle)}"
        yield finding("D030", "info", message)


def about_captions(images: Sequence[ImageSpec], texts: Texts, sources: Mapping[str, str]) -> Iterator[Finding]:
    """How many images have a caption, and whether those hold what is learned; `sources` are the captions' files."""
    bare = sum(image.caption is None for image in images)
    if bare:
        yield finding("D010", "info", f"{bare} of {len(images)} images have no caption; the instance prompt stands in")
    lacking = [image for image in images if image.caption is not None and not _TOKEN.search(image.caption)]
    if not texts.token or not lacking or all(_TOKEN.search(prefix) for prefix in texts.prefixes):
        return
    if len(lacking) == len(images):
        message = (
            "no caption holds TOK, the word to be learned, so it would learn nothing; write it where the subject is "
        )
        message += "named, or set recipe.caption.prefix; pivotal: null learns no word"
        yield error("D011", message, lacking[0].file)
    else:
        where = some([sources.get(image.file, image.file) for image in lacking])
        message = f"{len(lacking)} of {len(images)} captions lack TOK, the word to be learned ({where}); write it in"
        yield finding("D011", "warn", message, lacking[0].file)


def about_lengths(subject: Subject, images: Sequence[ImageSpec], texts: Texts) -> Iterator[Finding]:
    """Texts that one call of the text encoders does not hold, as they are trained: with their prefixes."""
    counter = texts.counter
    if counter is None:
        return
    longest = max(texts.prefixes, key=len)
    prompt = subject.instance_prompt or ""
    texts_by_name = {f"the caption of {one.file}": longest + one.caption for one in images if one.caption is not None}
    if any(one.caption is None for one in images):
        texts_by_name["the instance prompt"] = prompt
    long = {what: text for what, text in texts_by_name.items() if not counter.surely_fits(text, texts.learned)}
    chunks = {what: counter.chunks(text, texts.learned) for what, text in long.items()}
    if beyond := [what for what, count in chunks.items() if count > MAX_CHUNKS]:
        sizes = some([f"{what} ({counter.tokens(long[what], texts.learned)} tokens)" for what in beyond])
        message = f"too long to be trained or asked for: {sizes}; shorten to at most {MAX_CHUNKS * counter.room} tokens"
        yield error("D029", message)
    several = {what: count for what, count in chunks.items() if 1 < count <= MAX_CHUNKS}
    if several:
        verb = "is" if len(several) == 1 else "are"
        chunked = f"longer than {counter.room} tokens and trained in up to {max(several.values())} chunks"
        message = f"{len(several)} of {len(texts_by_name)} texts {verb} {chunked}, which takes longer: "
        yield finding("D029", "warn", f"{message}{some(list(several))}; shorten what need not be so long")
        yield from _about_late_words(counter, texts.learned, {what: long[what] for what in several})


def _about_late_words(counter: Counter, learned: int, long: dict[str, str]) -> Iterator[Finding]:
    """Texts whose learned word is first named behind the first chunk.

    Every chunk is trained, but the pooled embedding, the half of SDXL's conditioning that says what the whole picture
    is, is the first chunk's.
    """
    if late := [what for what, text in long.items() if (counter.first_chunk(text, learned) or 1) > 1]:
        verb = "names" if len(late) == 1 else "name"
        message = f"{len(late)} of the long texts {verb} TOK only after the first {counter.room} tokens: {some(late)}; "
        message += "it is trained there, but not in the pooled embedding, which sees the first chunk alone: name it "
        yield finding("D029", "warn", f"{message}sooner")
