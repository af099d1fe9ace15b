"""The recorded terminal of the documentation: 48 subjects, two of them bad, one manifest, two lanes.

    ./dev bench recording [--out docs] [--steps 40]

Runs the real commands under a pseudo-terminal. 46 adapters are published, the two bad subjects are named with the
doctor's check, and the exit code is 1; if not, this script ends with 1 itself and says why. Writes fanout.cast (for
asciinema) and fanout.svg (the terminal at the end).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from recording_terminal import Recorder, decoded

from lorafleet.toy.subjects import write_subjects
from lorafleet.toy.world import CLASSES

DOCS = Path(__file__).resolve().parents[1] / "docs"
SUBJECTS, PICTURES, LANES = 48, 4, 2
CUT_SHORT, CLASSLESS = 20, 33  # places of the bad ones in the manifest
WIDTH, HEIGHT = 128, SUBJECTS + 15
TITLE = "lorafleet: 48 subjects, one manifest"


def write_fleet(folder: Path, steps: int) -> dict[str, str]:
    """The subjects and `fleet.yaml`; returns which of them are bad, and the check that finds it."""
    subjects = write_subjects(folder / "photos", [CLASSES[i % len(CLASSES)] for i in range(SUBJECTS)], PICTURES)
    first, *others = sorted(subjects[CUT_SHORT].folder.glob("*.png"))
    for path in others:
        path.unlink()
    first.write_bytes(first.read_bytes()[:300])  # a download that broke off
    manifest = {
        "apiVersion": "lorafleet/v1alpha1", "name": "fleet", "base": "toy-sdxl",
        "recipe": {"preset": "object", "rank": 4, "steps": steps}, "resources": {"lanes": LANES},
        "subjects": [{"name": s.name, "images": f"photos/{s.name}", "class": s.identity.noun} for s in subjects],
    }  # fmt: skip
    del manifest["subjects"][CLASSLESS]["class"]
    (folder / "fleet.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return {subjects[CUT_SHORT].name: "D002", subjects[CLASSLESS].name: "D016"}


def environment() -> dict[str, str]:
    """As on a user's machine: the home is ./.lorafleet, the Ray our own, the terminal one with colours."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("LORAFLEET_", "MLFLOW_", "RAY_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"
    clean.pop("NO_COLOR", None)
    return {**clean, "PATH": path, "TERM": "xterm-256color", "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}


def record(folder: Path, steps: int) -> tuple[Recorder, list[str]]:
    """Runs the commands; returns what they showed, and what is not as it should be."""
    bad = write_fleet(folder, steps)
    recorder = Recorder(folder, environment(), WIDTH, HEIGHT)
    checked = recorder.run("lorafleet check fleet.yaml --level error")
    code = recorder.run("lorafleet submit fleet.yaml --yes")
    recorder.say(f"\x1b[1;32m$\x1b[0m echo $?\r\n{code}")
    return recorder, [*([] if checked == 1 else ["check found nothing"]), *complaints(recorder, bad, code)]


def complaints(recorder: Recorder, bad: dict[str, str], code: int) -> list[str]:
    """What is wrong with how it went."""
    found = [] if code == 1 else [f"the exit code is {code}, not 1"]
    said = "\n".join(line.plain for line in decoded(recorder.screen.rows))
    found += [
        f"{name} is not said to be left out because of {check}"
        for name, check in bad.items()
        if f"{name} is left out; {check}: " not in said
    ]
    status = subprocess.run(
        ["lorafleet", "status", "--json"], cwd=recorder.folder, env=dict(recorder.environment), capture_output=True
    )
    jobs = json.loads(status.stdout)["jobs"] if status.returncode == 0 else []
    published = {job["subject"] for job in jobs if job["state"] == "succeeded" and job["version"] == 1}
    if len(published) != SUBJECTS - len(bad) or published & set(bad):
        found.append(f"{len(published)} of {len(jobs)} jobs succeeded: {status.stderr.decode()[-400:]}")
    return found


def main() -> int:
    """Records, writes, and says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        recorder, wrong = record(Path(folder).resolve(), arguments.steps)
        recorder.write_cast(arguments.out / "fanout.cast", TITLE)
        recorder.write_svg(arguments.out / "fanout.svg", TITLE)
    for name in ("fanout.cast", "fanout.svg"):
        if folder in (arguments.out / name).read_text():
            wrong.append(f"{name} names a folder of this machine")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
