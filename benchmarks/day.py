"""The recorded day of the documentation: twenty-four folders of photographs, from `init` to adapters.

    ./dev bench day [--out docs/day] [--steps 300]

Writes the folders (`day_folders.py`), runs what a user would type under a pseudo-terminal, and draws each command's
terminal as an SVG, and the adapters' pictures as one sheet. Ends with 1, and says why, if a command's exit code is not
what it should be, if anything shows a traceback, or if an adapter is missing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from day_folders import EMPTY, FOLDERS, write_folders
from PIL import Image
from recording import environment
from recording_terminal import Recorder, decoded

from lorafleet.toy.sheet import contact_sheet
from lorafleet_jobs.dataset.subjects import slug
from lorafleet_jobs.image_formats import SUFFIXES
from lorafleet_jobs.images import load_image

OUT = Path(__file__).resolve().parents[1] / "docs" / "day"
WIDTH, HEIGHT = 120, 60
CELL, GAP = 128, 4
"""Of the pictures in a bundle's preview, in pixels."""
UNKNOWN = {"star-scan": "star", "mushroom": "mushroom", "IMG_2024": "dog", "mug-table": "mug"}
"""The folders whose names do not say what is in them, or say something else."""


@dataclass
class Day:
    """The commands of a day in one folder, a picture for each scene."""

    folder: Path
    out: Path
    complaints: list[str] = field(default_factory=list)

    def scene(self, name: str, *commands: str, code: int = 0) -> str:
        """Types commands, draws what they showed, and returns it; the last one's exit code should be `code`."""
        recorder, began = Recorder(self.folder, environment(), WIDTH, HEIGHT), time.monotonic()
        ended = [recorder.run(command) for command in commands]
        recorder.write_svg(self.out / f"{name}.svg", f"lorafleet: {commands[-1]}")
        said = "\n".join(line.plain for line in decoded(recorder.screen.rows))
        print(f"{name}: exit {ended[-1]}, {time.monotonic() - began:.1f} s\n{said}\n", flush=True)
        if ended[-1] != code:
            self.complaints.append(f"{name}: exit code {ended[-1]}, not {code}")
        if "Traceback" in said or str(self.folder) in (self.out / f"{name}.svg").read_text():
            self.complaints.append(f"{name} shows a traceback or a folder of this machine")
        return said

    def edit(self, steps: int) -> None:
        """What a user changes after `check`: classes, the word that captions had for the dog; steps and a prompt."""
        file = self.folder / "manifest.yaml"
        lines = file.read_text().splitlines()
        for index, line in enumerate(lines):
            folder = next((folder for folder in UNKNOWN if f"images: Photos/{folder}," in line), None)
            if folder is not None:
                lines[index] = re.sub(r"class: .*", f"class: {UNKNOWN[folder]}}}", line)
            if line.startswith("  # rank:"):
                lines[index] = f"  steps: {steps}"
            if line.startswith("# resources:"):
                lines[index] = "resources: {lanes: 2}"
            if line.startswith("# validation:"):
                lines[index] = 'validation: {prompts: ["a photo of TOK {class} on the beach"]}'
        file.write_text("\n".join(lines) + "\n")
        for caption in (self.folder / "Photos" / "10_sks dog").glob("*.txt"):
            caption.write_text(caption.read_text().replace("sks", "TOK"))


def live(day: Day, steps: int) -> None:
    """The day, hour by hour."""
    # without the manifest's first line, which names the schema's file on this machine
    day.scene("1-init", "ls Photos", "lorafleet init Photos", "tail -n +2 manifest.yaml")
    day.scene("2-check", "lorafleet check manifest.yaml", code=1)
    day.edit(steps)
    day.scene("3-plan", "lorafleet plan manifest.yaml")
    day.scene("4-watch", "lorafleet submit manifest.yaml --yes --detach", "lorafleet watch")
    day.scene("5-adapters", "lorafleet ls", "lorafleet adapters ls")
    day.scene(
        "6-picture", "lorafleet generate 'a photo of <rex-the-dog> dog in the snow' --adapter rex-the-dog --seed 7"
    )


def look(day: Day) -> None:
    """Puts the adapters' own pictures on one sheet, and sees that none is missing."""
    said = subprocess.run(
        ["lorafleet", "status", "--json"], cwd=day.folder, env=environment(), capture_output=True, text=True
    ).stdout
    jobs = json.loads(said)["jobs"]
    missing = {job["subject"]: job["state"] for job in jobs if job["state"] != "succeeded"}
    if missing or len(jobs) != len(FOLDERS) - EMPTY:
        day.complaints.append(f"these should have been trained: {missing}")
    rows = [(job["subject"], [photo(day, job["subject"]), *preview(day, job["id"])]) for job in jobs]
    half = -(-len(rows) // 2)
    sides = [contact_sheet(("a photo", "base", "words only", "adapter"), part) for part in (rows[:half], rows[half:])]
    sheet = Image.new("RGB", (sum(side.width for side in sides), sides[0].height), "white")
    sheet.paste(sides[0], (0, 0))
    sheet.paste(sides[1], (sides[0].width, 0))
    sheet.save(day.out / "adapters.png", optimize=True)


def photo(day: Day, subject: str) -> Image.Image:
    """One of the photographs that a subject was trained on."""
    (folder,) = [folder for folder in (day.folder / "Photos").iterdir() if slug(folder.name) == subject]
    return load_image(next(file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES))


def preview(day: Day, job: str) -> list[Image.Image]:
    """A bundle's pictures: the base's, with the learned words only, with the adapter."""
    strip = Image.open(day.folder / ".lorafleet" / "bundles" / job / "preview.png").convert("RGB")
    return [strip.crop((left, 0, left + CELL, CELL)) for left in range(0, strip.width, CELL + GAP)]


def main() -> int:
    """Lives the day, and says what was wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="day-") as folder:
        day = Day(Path(folder).resolve(), arguments.out)
        write_folders(day.folder / "Photos")
        live(day, arguments.steps)
        look(day)
    for complaint in day.complaints:
        print(complaint, file=sys.stderr)
    return 1 if day.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
