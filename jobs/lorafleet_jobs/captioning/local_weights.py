"""Where a captioner's weights lie on this machine: a folder, or the local Hugging Face cache. Downloads nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lorafleet.errors import CaptionerError
from lorafleet.util.quiet import quiet_libraries


def local_weights(model: str | None, known: Sequence[str], files: Sequence[str]) -> Path:
    """The folder of `model`, a folder or a hub id, or of the first of the `known` hub ids that is in the cache.

    It holds all the `files`, by name or as a pattern. Raises CaptionerError.
    """
    if model is not None and os.path.isdir(os.path.expanduser(model)):
        folder = Path(os.path.expanduser(model)).resolve()
        if lacking := _lacking(folder, files):
            raise CaptionerError(f"{folder} has no {lacking}; give the folder of a whole model")
        return folder
    for hub_id in known if model is None else (model,):
        cached = _in_hub_cache(hub_id, files[0])
        if cached is not None and not _lacking(cached, files):
            return cached
    if model is not None:
        raise CaptionerError(f"{model!r} is no folder and not in the local cache; run: hf download {model}")
    raise CaptionerError(f"its weights are not here; run: hf download {known[0]}")


def read_model(folder: Path, architecture: str) -> tuple[Any, Any]:
    """A model of a class of transformers, on the accelerator if there is one, and its processor."""
    quiet_libraries()
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = getattr(transformers, architecture).from_pretrained(folder, local_files_only=True, use_safetensors=True)
    return model.eval().to(device), transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)


def _lacking(folder: Path, files: Sequence[str]) -> str:
    """The first of the files that is not there; "" if all are."""
    return next((pattern for pattern in files if next(folder.glob(pattern), None) is None), "")


def _in_hub_cache(hub_id: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, file)
    except HFValidationError:
        raise CaptionerError(f"{hub_id!r} is neither a folder nor a hub id such as owner/name") from None
    return Path(found).parent if isinstance(found, str) else None
