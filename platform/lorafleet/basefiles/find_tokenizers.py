"""The two tokenizers of a base that comes without: a checkpoint of one file has none.

All of SDXL's relatives share CLIP's vocabulary, so any that is on this machine will do. Knows where to look, and
transformers' tokenizers. Nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers import CLIPTokenizer

from lorafleet.basefiles.architectures import SDXL, Architecture
from lorafleet.bases import HUB, added_bases, cached_base
from lorafleet.errors import BaseModelError
from lorafleet.home import Home

CLIP = "openai/clip-vit-large-patch14"
FOLDERS = ("tokenizer", "tokenizer_2")
PADS = ("<|endoftext|>", "!")
"""What SDXL pads each encoder's prompts with."""


@dataclass(frozen=True)
class Tokenizers:
    """Both tokenizers, and where they are from."""

    one: CLIPTokenizer
    two: CLIPTokenizer
    origin: str


def find_tokenizers(asked: Path | None, architecture: Architecture, home: Home) -> Tokenizers:
    """The tokenizers in a folder, else those of a base or of CLIP on this machine, for an architecture's encoders.

    Raises BaseModelError, which says what to put where, if there are none, or they have another vocabulary.
    """
    if asked is not None:
        found = _in_folder(asked, architecture)
        if found is None:
            raise BaseModelError(f"--tokenizers {asked} holds no tokenizers; {_wanted()}")
        return found
    for folder in _places(architecture, home):
        if (found := _in_folder(folder, architecture)) is not None:
            return found
    raise BaseModelError(
        "a checkpoint of one file has no tokenizers, and there are none on this machine; fetch CLIP's (2 MB): "
        f"hf download {CLIP} vocab.json merges.txt, or give a folder with --tokenizers FOLDER: {_wanted()}"
    )


def _wanted() -> str:
    return (
        "it needs the folders tokenizer and tokenizer_2 of any SDXL in the diffusers layout, or CLIP's vocab.json and "
        "merges.txt"
    )


def _places(architecture: Architecture, home: Home) -> list[Path]:
    if architecture != SDXL:
        return [architecture.folder]
    places = [base.path for name in HUB if (base := cached_base(name)) is not None]
    vocabulary = try_to_load_from_cache(CLIP, "vocab.json")
    if isinstance(vocabulary, str):
        places.append(Path(vocabulary).parent)
    size = SDXL.config(FOLDERS[0].replace("tokenizer", "text_encoder"))["vocab_size"]
    return [*places, *(b.path for b in added_bases(home) if b.config("text_encoder").get("vocab_size") == size)]


def _in_folder(folder: Path, architecture: Architecture) -> Tokenizers | None:
    """Those of a diffusers folder, or of CLIP's two files; None if neither is there."""
    if all(_is_tokenizer(folder / name) for name in FOLDERS):
        made = [CLIPTokenizer.from_pretrained(folder / name) for name in FOLDERS]
    elif _is_tokenizer(folder):
        made = [CLIPTokenizer.from_pretrained(folder, pad_token=pad) for pad in PADS]
    else:
        return None
    for tokenizer, encoder in zip(made, ("text_encoder", "text_encoder_2"), strict=True):
        config = architecture.config(encoder)
        if len(tokenizer) != config["vocab_size"]:
            raise BaseModelError(
                f"the tokenizers of {folder} have {len(tokenizer)} tokens, and {encoder} has {config['vocab_size']}; "
                f"--tokenizers FOLDER: {_wanted()}"
            )
        tokenizer.model_max_length = config["max_position_embeddings"]
    return Tokenizers(made[0], made[1], str(folder))


def _is_tokenizer(folder: Path) -> bool:
    there = {name for name in ("tokenizer.json", "vocab.json", "merges.txt") if (folder / name).is_file()}
    return "tokenizer.json" in there or there >= {"vocab.json", "merges.txt"}
