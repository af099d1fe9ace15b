"""Folders of a subject as tests of the doctor make them, and what it finds in them."""

from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from PIL import Image

from lorafleet.config import Manifest
from lorafleet_jobs.dataset.doctor import Needs, SubjectReport, check

Files = dict[str, bytes | str | Image.Image]


def photo(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def fill(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        if isinstance(content, Image.Image):
            content.save(folder / name, None if Path(name).suffix else "PNG")
        else:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """A zip file."""
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def good(count: int = 4, seed: int = 0) -> Files:
    return {f"{n:02}.png": photo(seed * 100 + n) for n in range(count)}


def manifest(*subjects: dict[str, object]) -> Manifest:
    return Manifest.model_validate({"name": "m", "subjects": list(subjects)})


def examined(tmp_path: Path, files: Files, **spec: object) -> SubjectReport:
    fill(tmp_path / "rex", files)
    [report] = check(manifest({"images": "rex", "class": "dog", **spec}), tmp_path, Needs(resolution=32))
    return report


def found(report: SubjectReport, *, but: str = "D010") -> list[tuple[str, str, str | None]]:
    return [(f.id, f.level, f.file) for f in report.findings if f.id not in but]
