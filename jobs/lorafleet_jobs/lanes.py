"""Lanes on Ray Train: one run of one worker each, from threads of the driver.

Several lanes in one run would be restarted together whenever one died, and a run's name is an implicit resume; hence
one run a lane, under a name that is never used twice.
"""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from lorafleet_jobs.desk import LaneSetup
from lorafleet_jobs.dispatcher import RemoteDesk, start_dispatcher
from lorafleet_jobs.rows import MAX_ATTEMPTS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fleet:
    """The lanes of one submission."""

    submission: str
    drive: str
    """Differs from drive to drive, so that no run name is ever met again."""
    lanes: int
    pack: int
    cpus: int
    gpus: float
    home: Path
    storage: Path
    tracking_uri: str
    database: str


def run_lanes(fleet: Fleet) -> list[str]:
    """Runs the lanes until the submission is drained; returns one line for each lane that was lost."""
    dispatcher = start_dispatcher(fleet.database, fleet.submission)
    with ThreadPoolExecutor(fleet.lanes, thread_name_prefix="lane") as pool:
        lost = list(pool.map(lambda number: _run_lane(fleet, number, dispatcher), range(fleet.lanes)))
    return [reason for reason in lost if reason is not None]


def lane_loop(config: dict[str, Any]) -> None:
    """What a Ray Train worker does."""
    import torch

    from lorafleet.tracking import MlflowTracking
    from lorafleet_jobs.lane import Lane

    setup: LaneSetup = config["setup"]
    torch.set_num_threads(setup.cpus)
    tracking = MlflowTracking(setup.tracking_uri, setup.home / "artifacts")
    Lane(setup, RemoteDesk(config["dispatcher"]), tracking).run()


def _run_lane(fleet: Fleet, number: int, dispatcher: Any) -> str | None:
    name = f"{fleet.submission}-{fleet.drive}-{number}"
    device = "cuda" if fleet.gpus > 0 else "cpu"
    setup = LaneSetup(f"{fleet.drive}-{number}", fleet.home, fleet.tracking_uri, fleet.cpus, device, fleet.pack)
    trainer = DataParallelTrainer(
        lane_loop,
        train_loop_config={"setup": setup, "dispatcher": dispatcher},
        scaling_config=_scaling(fleet),
        run_config=RunConfig(
            name=name, storage_path=str(fleet.storage), failure_config=FailureConfig(max_failures=2 * MAX_ATTEMPTS)
        ),
    )
    try:
        trainer.fit()
    except (TrainingFailedError, RayError) as problem:
        log.error("lane %d: %s", number, problem)
        return f"lane {number}: {(str(problem).strip().splitlines() or [type(problem).__name__])[-1]}"
    finally:
        shutil.rmtree(fleet.storage / name, ignore_errors=True)
    return None


def _scaling(fleet: Fleet) -> ScalingConfig:
    resources = {"CPU": float(fleet.cpus)}
    if fleet.gpus > 0:
        resources["GPU"] = fleet.gpus
    return ScalingConfig(num_workers=1, use_gpu=fleet.gpus > 0, resources_per_worker=resources)
