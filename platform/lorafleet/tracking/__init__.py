"""The one package that talks to MLflow: runs, numbers, pictures, bundles and the registry of adapters.

    runs      a submission's parent run and its jobs' child runs
    jobinfo   what a child run says about its job
    links     descriptions that lead from a run to its relatives
    tracker   one job's numbers and pictures, kept through an outage
    sender    the thread that sends them, one a process
    entries, journal, points, delivery
              what is sent: on disk until it has arrived, each point once, in as few calls as may be
    registry  adapter versions, found by name and fetched
    client    how MLflow is reached, and what its errors mean

Only `MlflowClient` is used, never the fluent API, whose notion of an active run is a thread's. Knows bundles and
recipes; refuses to know jobs, lanes and Ray.
"""

from lorafleet.tracking.jobinfo import JobInfo
from lorafleet.tracking.registry import MlflowRegistry
from lorafleet.tracking.runs import MlflowTracking, RunEnd, Status
from lorafleet.tracking.tracker import MlflowJobTracker

__all__ = ["JobInfo", "MlflowJobTracker", "MlflowRegistry", "MlflowTracking", "RunEnd", "Status"]
