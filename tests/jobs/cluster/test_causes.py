"""What a lane died of, out of Ray's own wrappers, which travel between processes."""

import pickle

import pytest
from ray.exceptions import ActorDiedError, RaySystemError, RayTaskError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError

from lorafleet_jobs.cluster.causes import describe, recurs, root_cause

MISSING = ModuleNotFoundError("No module named 'lorafleet_jobs'", name="lorafleet_jobs")
UNREADABLE = """System error: No module named 'x'
traceback: Traceback (most recent call last):
  File "serialization.py", line 1, in loads
ModuleNotFoundError: No module named 'x'
"""


def in_lane(*problems):
    wrapped = {rank: UserExceptionWithTraceback(one, "Traceback ...") for rank, one in enumerate(problems)}
    return WorkerGroupError("[Rank 0 Error Snippet]:\nTraceback ...", wrapped)


@pytest.mark.parametrize(
    ("problem", "said", "again"),
    [
        (in_lane(KeyError("tok")), "KeyError: 'tok'", False),
        (in_lane(MISSING), "ModuleNotFoundError: No module named 'lorafleet_jobs'", True),
        (in_lane(ValueError("first\nsecond"), KeyError(1)), "ValueError: first", False),
        (ControllerError(WorkerHealthCheckFailedError("lost", in_lane(MemoryError()))), "MemoryError", False),
        (RayTaskError("lane_loop", "Traceback ...", MISSING), "ModuleNotFoundError: No module named", True),
        (RaySystemError("No module named 'x'", UNREADABLE), "ModuleNotFoundError: No module named 'x'", True),
        (ActorDiedError(), "ActorDiedError: The actor died unexpectedly before finishing this task.", False),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device", False),
    ],
)
def test_the_class_and_message_are_those_of_what_was_raised(problem, said, again):
    for one in (problem, pickle.loads(pickle.dumps(problem))):
        assert describe(one).startswith(said)
        assert "\n" not in describe(one)
        assert recurs(one) == again


def test_a_cause_that_is_nothing_of_rays_is_itself():
    problem = ValueError("bad")
    problem.cause = KeyError("inner")
    assert root_cause(problem) is problem
