"""For whoever has a GPU for ten minutes: is it right there, how fast is it, and how near to what the GPU can do.

    ./dev bench gpu                       all of it, in ten minutes at most
    ./dev bench gpu --minutes 4           what matters most
    ./dev bench gpu --parts training      one part: checks, training, peers, serving
    ./dev bench gpu --dry                 toy bases and few steps, to try the code where no GPU is

Correctness first: losses of seven recipes against a CPU's, pictures against stock diffusers, exact mode. Then steps at
SDXL's full size with random weights, bf16, 1024 px: training alone and in packs, and serving where every image has
another adapter; beside diffusers with PEFT, and beside the floor, which is the UNet's matrix products at the rate that
this GPU reaches. `waits` are the times a step waits for the GPU, as torch counts them.

Needs neither Ray nor MLflow. Prints each result as it comes, and writes all of them after each.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "tools")]
import gpu_checks
import torch
from gpu_device import Place, matmul_tflops
from gpu_report import HEADING, Figure, Report, Task, device_name
from gpu_serving import ServingCells
from gpu_training import PeerCells, TrainingCells

from lorafleet.util.quiet import quiet_libraries

RESULT = Path(__file__).parents[1] / "results" / "gpu.json"
PARTS = ("checks", "training", "peers", "serving")


def tasks_of(part: str, place: Place) -> list[Task]:
    """Of one part; what they share is freed when they are dropped."""
    if part == "checks":
        return gpu_checks.tasks(place)
    return {"training": TrainingCells, "peers": PeerCells, "serving": ServingCells}[part](place).tasks()


def main() -> None:
    """Runs the parts."""
    parser = argparse.ArgumentParser(
        prog="./dev bench gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--parts", default=",".join(PARTS), type=lambda text: text.split(","))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.dry:
        parser.error("torch sees no GPU here; --dry tries the code without one")
    quiet_libraries()
    report = Report(arguments.minutes, arguments.out, device)
    rate = matmul_tflops(device)
    print(f"{device_name(device)}, torch {torch.__version__}: bf16 matrix products at {rate:.0f} TFLOP/s\n{HEADING}")
    report.found.append(Figure("bf16 matrix products", rate, "TFLOP/s"))
    with tempfile.TemporaryDirectory() as folder:
        place = Place(device, Path(folder), arguments.dry, rate)
        for part in arguments.parts:
            tasks = tasks_of(part, place)
            while tasks:
                report.run(tasks.pop(0))
            gc.collect()
    print(f"\n{report.table()}")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
