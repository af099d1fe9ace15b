"""Makes the VAE and both bases within some minutes on one GPU: a process for each, which wait for each other's results.

Knows the minutes and how they are divided; imports neither torch nor the networks, so that it can end what hangs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("toy-sdxl", "toy-playground")
ENDING = 25.0  # seconds at the end for sampling, measuring and packing
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
SCRIPT = Path(__file__).parents[1] / "make_toy.py"


@dataclass
class Log:
    """What all processes print, with the seconds since the start, on the terminal and in a file."""

    path: Path
    start: float = field(default_factory=time.time)

    def follow(self, name: str, child: subprocess.Popen[str]) -> threading.Thread:
        """Passes on what a child prints, until it ends."""

        def copy() -> None:
            assert child.stdout is not None
            for line in child.stdout:
                self.say(f"[{name}] {line.rstrip()}")

        thread = threading.Thread(target=copy)
        thread.start()
        return thread

    def say(self, text: str) -> None:
        """One line."""
        line = f"{time.time() - self.start:6.1f} {text}"
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def make_together(work: Path, out: Path, minutes: float, options: list[str]) -> int:
    """Runs the stages; one that fails is run once more without recording. Returns the exit code."""
    start, total = time.time(), 60 * minutes
    log = Log(out / "log.txt")
    for name in ("captions.pt", "latents.pt"):
        (work / name).unlink(missing_ok=True)
    limits = ["--render-seconds", f"{0.17 * total:.0f}", "--vae-seconds", f"{0.25 * total:.0f}"]
    shared = ["--work", str(work), "--out", str(out), "--until", f"{start + total - ENDING:.1f}", *limits, *options]
    commands = {"vae": ["vae", *shared], **{kind: ["base", kind, *shared] for kind in KINDS}}
    children, retried = {name: _start(name, command, log) for name, command in commands.items()}, set()
    while children and time.time() - start < total:
        time.sleep(0.2)
        for name, child in tuple(children.items()):
            if child.poll() is None:
                continue
            del children[name]
            log.say(f"[{name}] ended with code {child.returncode}")
            if child.returncode and name not in retried:
                log.say(f"[{name}] is run once more, and nothing is recorded")
                retried.add(name)
                children[name] = _start(name, [*commands[name], "--no-record"], log)
            elif child.returncode:
                return _end(children, log, f"{name} failed twice")
    return _end(children, log, "the minutes are over") if children else 0


def _start(name: str, command: list[str], log: Log) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-u", str(SCRIPT), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | QUIET,
    )  # fmt: skip
    log.follow(name, child)
    return child


def _end(children: dict[str, subprocess.Popen[str]], log: Log, why: str) -> int:
    """Ends what still runs; what it had saved before is kept."""
    log.say(f"{why}; still running: {', '.join(children) or 'nothing'}")
    for child in children.values():
        child.kill()
        child.wait()
    return 1
