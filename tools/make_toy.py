"""Rebuilds the toy world's weights: `python tools/make_toy.py world --work FOLDER --out FOLDER --minutes 4`.

`world` renders the pictures and trains the VAE and both bases within the minutes on one GPU; on a CPU give it hours.
Its stages `vae`, `base toy-sdxl` and `base toy-playground` can be run by themselves. `judge` trains the judge, `report`
measures what is shipped.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from toy.together import KINDS, make_together


def arguments() -> argparse.ArgumentParser:
    """What the command understands."""
    parser = argparse.ArgumentParser(prog="python tools/make_toy.py", description=__doc__)
    parser.add_argument("stage", choices=("world", "vae", "base", "judge", "report"))
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("--work", type=Path, default=Path("work"), help="where stages find each other's results")
    parser.add_argument("--out", type=Path, default=Path("out"), help="where archives, sheets and the log are put")
    parser.add_argument("--minutes", type=float, default=4.0, help="of wall time, for everything")
    parser.add_argument("--pictures", type=int, default=120_000)
    parser.add_argument("--vae-steps", type=int, default=12_000)
    parser.add_argument("--base-steps", type=int, default=20_000)
    parser.add_argument("--render-seconds", type=float, default=math.inf)
    parser.add_argument("--vae-seconds", type=float, default=math.inf)
    parser.add_argument("--until", type=float, default=math.inf, help="the Unix time when a base's training ends")
    parser.add_argument("--threads", type=int, default=0, help="of torch in each process; 0: as many as it likes")
    parser.add_argument("--no-record", action="store_true", help="call each training step from Python on a GPU too")
    return parser


def main() -> int:
    """Runs one stage."""
    parser = arguments()
    given = parser.parse_args()
    for folder in (given.work, given.out):
        folder.mkdir(parents=True, exist_ok=True)
    if given.stage == "world":
        counts = ("pictures", "vae_steps", "base_steps", "threads")
        options = [word for name in counts for word in (f"--{name.replace('_', '-')}", str(getattr(given, name)))]
        return make_together(given.work, given.out, given.minutes, options)
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    start = time.monotonic()
    if given.stage == "judge":
        from toy.judge import make_judge

        make_judge()
    elif given.stage == "report":
        from toy.report import make_report

        make_report()
    else:
        from toy.stages import Limits, Places, make_base, make_vae

        print(f"{given.stage}: imported in {time.monotonic() - start:.1f} s", flush=True)
        places, record = Places(given.work, given.out), not given.no_record
        if given.stage == "vae":
            limits = Limits(given.vae_steps, given.vae_seconds, record)
            make_vae(places, given.pictures, given.render_seconds, limits)
        else:
            kind = given.kind or parser.error("base needs a kind")
            make_base(kind, places, Limits(given.base_steps, math.inf, record), given.until)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
