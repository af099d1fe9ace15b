"""Whether the workers of a Ray cluster can do our work: they must find the same lorafleet, and what it needs.

    python -m lorafleet_jobs.cluster.proving ADDRESS

asks from a process of its own, which is ended when no answer comes: Ray itself would wait for ever for what is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from lorafleet_jobs.cluster.causes import describe, root_cause

PROVE_SECONDS = 40.0
"""For a cluster that nobody named, start of a process and of a worker included; 5 to 10 s on an idle machine."""
PACKAGES = ("lorafleet", "lorafleet_jobs")
NEEDS = ("torch", "diffusers", "transformers", "peft", "safetensors", "mlflow", "sqlalchemy")
VIA_ENVIRONMENT = {"env_vars": {"LORAFLEET_PROVING": "1"}}
"""Ray starts workers that have a runtime environment, as Train's have, in another way than others."""


@dataclass(frozen=True)
class Installed:
    """What lorafleet a process has."""

    version: str
    digest: str
    """Of its sources."""


@dataclass(frozen=True)
class Proof:
    """What a cluster's worker has, and how many cores are free."""

    workers: Installed
    cpus: float


def question() -> Callable[[], tuple[str, str]]:
    """The function that a worker runs. Local, so that it travels whole: where lorafleet is missing it must still run.

    It returns version and digest, and raises ModuleNotFoundError by name.
    """
    packages, needs = PACKAGES, NEEDS

    def look() -> tuple[str, str]:
        import hashlib
        import importlib.util
        from pathlib import Path

        for name in (*packages, *needs):
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        digest = hashlib.sha256()
        for name in packages:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            root = Path(spec.origin).parent
            for file in sorted(root.rglob("*.py")):
                digest.update(f"{name}/{file.relative_to(root)}\n".encode())
                digest.update(file.read_bytes())
        from lorafleet import __version__

        return __version__, digest.hexdigest()

    return look


def here() -> Installed:
    """What this process has."""
    return Installed(*question()())


def ask_worker(seconds: float) -> Installed:
    """What a worker of the Ray that this process is connected to has.

    Raises what the worker raised, as Ray wraps it, and GetTimeoutError if none answers.
    """
    import ray

    look = ray.remote(question()).options(num_cpus=0, max_retries=0, runtime_env=VIA_ENVIRONMENT)
    return Installed(*ray.get(look.remote(), timeout=seconds))


def difference(theirs: Installed, ours: Installed) -> str | None:
    """Why two installations are not the same, in a few words; None if they are."""
    if theirs.version != ours.version:
        return f"its workers have lorafleet {theirs.version}, here it is {ours.version}"
    if theirs.digest != ours.digest:
        return f"its workers have other sources of lorafleet {ours.version} than are here"
    return None


def objection(problem: BaseException) -> str:
    """Why asking failed, in a few words."""
    cause = root_cause(problem)
    if isinstance(cause, ImportError):
        return f"its workers cannot import {cause.name or cause}"
    return describe(problem)


def prove(address: str, seconds: float = PROVE_SECONDS) -> Proof | str:
    """Asks the cluster at `address` from a process of its own; the proof, or in a few words why there is none."""
    command = [sys.executable, "-m", "lorafleet_jobs.cluster.proving", address]
    asker = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        out, _ = asker.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"its workers did not answer within {seconds:g} s"
    finally:
        if asker.poll() is None:
            os.killpg(asker.pid, signal.SIGKILL)
            asker.wait()
    lines = out.decode(errors="replace").splitlines()
    if not lines:
        return "it could not be asked"
    answer = json.loads(lines[-1])
    if "problem" in answer:
        return str(answer["problem"])
    return Proof(Installed(**answer["workers"]), answer["cpus"])


def main(arguments: Sequence[str]) -> int:
    """Prints one JSON document: `workers` and `cpus`, or `problem`."""
    import ray
    from ray.exceptions import RayError

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    (address,) = arguments
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        cpus = float(ray.available_resources().get("CPU", 0))
        answer = asdict(Proof(ask_worker(PROVE_SECONDS), cpus))
    except (OSError, RayError, RuntimeError, ValueError, ImportError) as problem:
        answer = {"problem": objection(problem)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
