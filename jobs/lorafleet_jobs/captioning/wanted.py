"""Which photographs of a subject want a caption, and into which file it goes. Knows what the doctor found."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from lorafleet_jobs.captioning.placing import TOKEN
from lorafleet_jobs.captioning.writing import Photograph, caption_file
from lorafleet_jobs.dataset.doctor import SubjectReport


@dataclass
class Wanted:
    """Photographs to be captioned, and those that are let be."""

    photographs: list[Photograph] = field(default_factory=list)
    captioned: int = 0
    """Have a caption, which stays."""
    taken: list[Path] = field(default_factory=list)
    """Files where a caption would go, which say something that is not read as one."""
    elsewhere: list[str] = field(default_factory=list)
    """Subjects whose photographs lie in a zip file or at an address, where nothing is written."""

    def add(self, report: SubjectReport, prefixes: Collection[str] = ("",), overwrite: bool = False) -> None:
        """Takes over a subject's photographs without a caption, with `overwrite` all of them.

        `prefixes` are what its recipes put before every caption.
        """
        subject = report.subject
        if subject.folder is None:
            return
        if subject.fetched:
            self.elsewhere.append(report.name)
            return
        known = {one.path for one in self.photographs}
        names = [image.file for image in report.images]
        noun = (subject.class_noun or "").strip(" ?")
        prompt = subject.instance_prompt or f"a photo of {TOKEN} {noun}".strip()
        if all(re.search(rf"\b{TOKEN}\b", prefix) for prefix in prefixes):
            prompt = ""
        for image in report.images:
            path, target = subject.folder / image.file, subject.folder / caption_file(image.file, names)
            if image.caption is not None and not overwrite:
                self.captioned += 1
            elif image.caption is None and _says_something(target):
                self.taken.append(target)
            elif path not in known:  # two subjects may share a folder
                self.photographs.append(Photograph(report.name, path, target, noun or None, prompt))


def _says_something(file: Path) -> bool:
    return file.exists() and not (file.is_file() and not file.read_bytes().strip())
