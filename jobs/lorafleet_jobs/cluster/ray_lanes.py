"""Lanes on Ray Train: one run each, of one worker or of those that share one job, from threads of the driver.

Several lanes in one run would be restarted together whenever one died, and a run's name is an implicit resume; hence
one run a lane, under a name that is never used twice. A lane that left is started again while there is work; one that
dies again and again without anything getting further is given up.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from lorafleet.home import Home
from lorafleet_jobs.cluster.causes import describe, recurs, root_cause
from lorafleet_jobs.cluster.remote_queue import remote_queue, start_dispatcher
from lorafleet_jobs.cluster.sizing import Fleet
from lorafleet_jobs.jobqueue.job_queue import JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.policy import TENURE_SECONDS, Death, Deaths, advance, workers_wanted
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.lane.job_log import JobLog

if TYPE_CHECKING:
    from lorafleet_jobs.lane.followers import Followers
    from lorafleet_jobs.lane.lane import Leaving

POLITE_SECONDS = 120.0
"""So long a lane that gave up its place lets others take it; they may want what the cluster does not have."""
MATES_SECONDS = 4 * 3600
"""So long a worker waits for the others of its job; a class's images may be made, or a disk awaited, meanwhile."""
log = logging.getLogger(__name__)


def cluster_name() -> str:
    """Of the Ray that this process is connected to; no two share one."""
    return str(ray.get_runtime_context().get_session_name())


def run_lanes(fleet: Fleet) -> list[str]:
    """Runs the lanes until the submission is drained; returns one line for each lane that was given up.

    Jobs that several workers share have lanes of their own, after those of the others.
    """
    store, lost = JobStore(fleet.database), list[str]()
    queue = JobQueue(fleet.database, fleet.submission, driver=fleet.driver)
    while not lost and not queue.is_drained():
        wanted = workers_wanted(store.jobs(fleet.submission))
        lost += _run_alike(replace(fleet, workers=min(wanted)))
    return lost


def _run_alike(fleet: Fleet) -> list[str]:
    """The same for the jobs that `fleet.workers` share."""
    dispatcher = start_dispatcher(fleet.database, fleet.submission, fleet.workers, fleet.driver)
    with ThreadPoolExecutor(fleet.lanes, thread_name_prefix="lane") as pool:
        lost = list(pool.map(lambda number: _keep_up(fleet, number, dispatcher), range(fleet.lanes)))
    return [reason for reason in lost if reason is not None]


def lane_loop(config: dict[str, Any]) -> Leaving:
    """What a lane's only worker does; returns why it left."""
    import torch

    from lorafleet_jobs.cluster.preemption import Preemption
    from lorafleet_jobs.lane.followers import NoFollowers

    torch.set_num_threads(config["setup"].cpus)
    return _lane(config, NoFollowers(), Preemption())


def team_loop(config: dict[str, Any]) -> Leaving | None:
    """What each of several workers does, that share one job at a time; the first returns why they left."""
    import torch
    from ray.train.torch import get_device

    from lorafleet_jobs.cluster.preemption import signalled
    from lorafleet_jobs.lane.followers import RankFollowers, follow_lane

    setup: LaneConfig = config["setup"]
    torch.set_num_threads(setup.cpus)
    if setup.device != "cpu":
        torch.cuda.set_device(get_device())
    if ray.train.get_context().get_world_rank() > 0:
        follow_lane(setup)
        return None
    return _lane(config, RankFollowers(), signalled)


def _lane(config: dict[str, Any], followers: Followers, must_leave: Callable[[], bool]) -> Leaving:
    from lorafleet.tracking import MlflowTracking
    from lorafleet_jobs.cluster.preemption import listen_on_main_thread
    from lorafleet_jobs.lane.lane import Lane
    from lorafleet_jobs.lane.lane_reports import LaneReports

    setup: LaneConfig = config["setup"]
    listen_on_main_thread()
    tracking = MlflowTracking(setup.tracking_uri, Home(setup.home).artifacts)
    queue = remote_queue(config["dispatcher"])
    lane = Lane(setup, queue, tracking, must_leave, followers=followers)
    with LaneReports(queue, setup, lambda: lane.activity.current):
        return lane.run()


def _keep_up(fleet: Fleet, number: int, dispatcher: Any) -> str | None:
    """One lane, life after life; returns why it was given up, or None if nothing is left to do."""
    store = JobStore(fleet.database)
    queue = JobQueue(fleet.database, fleet.submission, workers=fleet.workers, driver=fleet.driver)
    life, deaths = 0, Deaths()
    while not queue.is_drained():
        before = store.jobs(fleet.submission)
        try:
            left = _live(fleet, number, life, dispatcher)
            log.info("lane %d: %s", number, left)
        except (TrainingFailedError, RayError) as problem:
            _bury(fleet, store, _setup(fleet, number).name, describe(problem))
            death = _death(problem, before, store.jobs(fleet.submission))
            if deaths.are_enough(death):
                return f"lane {number}: {death.cause}"
        else:
            if left == "yielded":
                _let_others_in(queue)
        life += 1
    return None


def _death(problem: Exception, before: Sequence[JobRow], after: Sequence[JobRow]) -> Death:
    return Death(
        describe(problem), recurs(problem), raised=not isinstance(root_cause(problem), RayError),
        leased=sum(row.attempts for row in before) != sum(row.attempts for row in after),
        further=advance(before) != advance(after),
    )  # fmt: skip


def _bury(fleet: Fleet, store: JobStore, lane: str, cause: str) -> None:
    """A lane died: its jobs are taken back at once, and their rows and logs say what it died of."""
    log.warning("lane %s died of %s", lane, cause)
    for row in store.lose_lane(fleet.submission, lane, time.time(), cause):
        JobLog(Home(fleet.home).job_log(row.submission, row.id)).append(f"lane {lane} died of {cause}")


def _let_others_in(queue: JobQueue) -> None:
    deadline = time.monotonic() + POLITE_SECONDS
    while queue.should_yield(TENURE_SECONDS) and time.monotonic() < deadline:
        time.sleep(1.0)


def _live(fleet: Fleet, number: int, life: int, dispatcher: Any) -> Leaving:
    """One Ray Train run. Raises TrainingFailedError or RayError."""
    name = f"{fleet.submission}-{fleet.drive}-{number}w{fleet.workers}-{life}"
    run_config = RunConfig(
        name=name, storage_path=str(fleet.storage), failure_config=FailureConfig(max_failures=0)
    )  # Ray Train would start it again without saying why it died
    try:
        left: Leaving = _trainer(fleet, _setup(fleet, number), dispatcher, run_config).fit().return_value
    finally:
        shutil.rmtree(fleet.storage / name, ignore_errors=True)
    return left


def _setup(fleet: Fleet, number: int) -> LaneConfig:
    name = f"{fleet.drive}-{number}"
    return LaneConfig(
        name, fleet.home, fleet.tracking_uri, fleet.cpus, "cuda" if fleet.gpus > 0 else "cpu",
        fleet.pack if fleet.workers == 1 else 1, fleet.resources, fleet.rank, fleet.spans / f"{name}.jsonl",
    )  # fmt: skip


def _trainer(fleet: Fleet, setup: LaneConfig, dispatcher: Any, run_config: RunConfig) -> DataParallelTrainer:
    config = {"setup": setup, "dispatcher": dispatcher}
    if fleet.workers == 1:
        return DataParallelTrainer(
            lane_loop, train_loop_config=config, scaling_config=_scaling(fleet), run_config=run_config
        )
    from ray.train.torch import TorchConfig, TorchTrainer  # imports torch, which a driver is spared

    backend = "nccl" if fleet.gpus >= 1 else "gloo"  # NCCL wants a whole GPU for each worker
    group = TorchConfig(backend=backend, timeout_s=MATES_SECONDS)
    return TorchTrainer(
        team_loop, train_loop_config=config, scaling_config=_scaling(fleet), run_config=run_config, torch_config=group
    )


def _scaling(fleet: Fleet) -> ScalingConfig:
    resources = {"CPU": float(fleet.cpus)}
    if fleet.gpus > 0:
        resources["GPU"] = fleet.gpus
    return ScalingConfig(num_workers=fleet.workers, use_gpu=fleet.gpus > 0, resources_per_worker=resources)
