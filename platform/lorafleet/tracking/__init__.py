"""The one package that talks to MLflow: runs, numbers, pictures, bundles and the registry of adapters.

    runs      a submission's parent run and its jobs' child runs
    jobinfo   what a child run says about its job
    links     descriptions that lead from a run to its relatives
    sending   a job's numbers and pictures on their way into its run, each once however often they are sent
    registry  adapter versions, found by name and fetched
    presence  which versions are registered, asked about many at once
    removal   versions and runs taken out for good
    client    how MLflow is reached, and what its errors mean

Only `MlflowClient` is used, never the fluent API, whose notion of an active run is a thread's. Knows bundles and
recipes; refuses to know jobs, lanes and Ray.
"""

from lorafleet.tracking.environment import set_defaults

set_defaults()  # here, before the imports below: MLflow reads some settings when it is imported

from lorafleet.tracking.jobinfo import JobInfo  # noqa: E402
from lorafleet.tracking.registry import MlflowRegistry  # noqa: E402
from lorafleet.tracking.runs import MlflowTracking  # noqa: E402

__all__ = ["JobInfo", "MlflowRegistry", "MlflowTracking"]
