"""Lanes on Ray Train: one run of one worker each, from threads of the driver.

Several lanes in one run would be restarted together whenever one died, and a run's name is an implicit resume; hence
one run a lane, under a name that is never used twice. A lane that left is started again while there is work; one that
dies again and again without anything getting further is given up.
"""

from __future__ import annotations

import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from lorafleet.config import Resources
from lorafleet_jobs.desk import LaneSetup, StoreDesk
from lorafleet_jobs.dispatcher import RemoteDesk, start_dispatcher
from lorafleet_jobs.policy import TENURE_SECONDS, advance
from lorafleet_jobs.rows import QUARANTINE_LANES
from lorafleet_jobs.store import JobStore

if TYPE_CHECKING:
    from lorafleet_jobs.lane import Leaving

TRIES = 2
"""So many runs of a lane may fail one after another without any job getting further."""
POLITE_SECONDS = 120.0
"""So long a lane that gave up its place lets others take it; they may want what the cluster does not have."""
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
    resources: Resources
    """As the manifest has them."""
    home: Path
    storage: Path
    tracking_uri: str
    database: str


def cluster_name() -> str:
    """Of the Ray that this process is connected to; no two share one."""
    return str(ray.get_runtime_context().get_session_name())


def run_lanes(fleet: Fleet) -> list[str]:
    """Runs the lanes until the submission is drained; returns one line for each lane that was given up."""
    dispatcher = start_dispatcher(fleet.database, fleet.submission)
    with ThreadPoolExecutor(fleet.lanes, thread_name_prefix="lane") as pool:
        lost = list(pool.map(lambda number: _keep_up(fleet, number, dispatcher), range(fleet.lanes)))
    return [reason for reason in lost if reason is not None]


def lane_loop(config: dict[str, Any]) -> Leaving:
    """What a Ray Train worker does; returns why it left."""
    import torch

    from lorafleet.tracking import MlflowTracking
    from lorafleet_jobs.lane import Lane
    from lorafleet_jobs.notice import Notice, listen_on_main_thread

    setup: LaneSetup = config["setup"]
    torch.set_num_threads(setup.cpus)
    listen_on_main_thread()
    tracking = MlflowTracking(setup.tracking_uri, setup.home / "artifacts")
    try:
        return Lane(setup, RemoteDesk(config["dispatcher"]), tracking, Notice()).run()
    finally:
        tracking.close()


def _keep_up(fleet: Fleet, number: int, dispatcher: Any) -> str | None:
    """One lane, life after life; returns why it was given up, or None if nothing is left to do."""
    store, desk = JobStore(fleet.database), StoreDesk(fleet.database, fleet.submission)
    life, fruitless = 0, 0
    while not store.is_drained(fleet.submission):
        before = advance(store.jobs(fleet.submission))
        try:
            left = _live(fleet, number, life, dispatcher)
            log.info("lane %d: %s", number, left)
        except (TrainingFailedError, RayError) as problem:
            log.error("lane %d: %s", number, problem)
            fruitless = 0 if advance(store.jobs(fleet.submission)) != before else fruitless + 1
            if fruitless == TRIES:
                return f"lane {number}: {(str(problem).strip().splitlines() or [type(problem).__name__])[-1]}"
        else:
            if left == "yielded":
                _let_others_in(desk)
        life += 1
    return None


def _let_others_in(desk: StoreDesk) -> None:
    deadline = time.monotonic() + POLITE_SECONDS
    while desk.gives_way(TENURE_SECONDS) and time.monotonic() < deadline:
        time.sleep(1.0)


def _live(fleet: Fleet, number: int, life: int, dispatcher: Any) -> Leaving:
    """One Ray Train run. Raises TrainingFailedError or RayError."""
    name = f"{fleet.submission}-{fleet.drive}-{number}-{life}"
    device = "cuda" if fleet.gpus > 0 else "cpu"
    setup = LaneSetup(
        f"{fleet.drive}-{number}", fleet.home, fleet.tracking_uri, fleet.cpus, device, fleet.pack, fleet.resources
    )  # fmt: skip
    trainer = DataParallelTrainer(
        lane_loop,
        train_loop_config={"setup": setup, "dispatcher": dispatcher},
        scaling_config=_scaling(fleet),
        run_config=RunConfig(
            name=name, storage_path=str(fleet.storage), failure_config=FailureConfig(max_failures=QUARANTINE_LANES)
        ),
    )
    try:
        left: Leaving = trainer.fit().return_value
    finally:
        shutil.rmtree(fleet.storage / name, ignore_errors=True)
    return left


def _scaling(fleet: Fleet) -> ScalingConfig:
    resources = {"CPU": float(fleet.cpus)}
    if fleet.gpus > 0:
        resources["GPU"] = fleet.gpus
    return ScalingConfig(num_workers=1, use_gpu=fleet.gpus > 0, resources_per_worker=resources)
