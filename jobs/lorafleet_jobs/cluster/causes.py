"""What a lane died of: the exception that was raised in it, without what Ray wraps around it. Pure."""

from __future__ import annotations

import re

from ray.exceptions import RayError, RaySystemError
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import RayTrainError

from lorafleet.errors import summary

INNER = ("controller_failure", "health_check_failure", "_base_exc", "cause")
"""Where Ray's wrappers keep what they wrap."""
IMPORTS = ("ModuleNotFoundError", "ImportError", "SyntaxError")
LAST_LINE = re.compile(r"^(\w[\w.]*(?:Error|Exception|Exit|Interrupt)\b.*)$", re.MULTILINE)
LONGEST = 300


def root_cause(problem: BaseException) -> BaseException:
    """The exception inside Ray's wrappers; of several workers the first one's."""
    while isinstance(problem, (RayTrainError, RayError, TrainingFailedError)):
        failures = getattr(problem, "worker_failures", None) or {}
        inner = [failures[rank] for rank in sorted(failures)]
        inner += [
            inner_problem for name in INNER if isinstance(inner_problem := getattr(problem, name, None), BaseException)
        ]
        if not inner or inner[0] is problem:
            break
        problem = inner[0]
    return problem


def describe(problem: BaseException) -> str:
    """Class and message of the root cause, in one line."""
    cause = root_cause(problem)
    if isinstance(cause, RaySystemError) and (lines := LAST_LINE.findall(str(cause))):
        return str(lines[-1])[:LONGEST]  # what a worker could not read, as a traceback
    return summary(cause)[:LONGEST]


def recurs(problem: BaseException) -> bool:
    """Whether every other life of a lane would end the same way: something cannot be imported there."""
    cause = root_cause(problem)
    return isinstance(cause, ImportError | SyntaxError) or describe(cause).startswith(IMPORTS)
