"""What `submit --detach` leaves behind: `python -m lorafleet_jobs.submission.driver SUBMISSION [ADDRESS]`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from lorafleet.console import escape_unwritable
from lorafleet.errors import LorafleetError
from lorafleet.home import Home


def main(arguments: Sequence[str]) -> int:
    """Drives one recorded submission to its end; what goes wrong is said in the log that stderr is."""
    from lorafleet_jobs.jobqueue.status import open_store
    from lorafleet_jobs.submission.driver_lease import driver_lease
    from lorafleet_jobs.submission.submit import drive

    escape_unwritable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    home = Home.from_environment()
    submission, *address = arguments
    with driver_lease(open_store(home), submission) as lease:
        if lease is None:
            return 0
        try:
            drive(submission, home, lease, address[0] if address else None)
        except LorafleetError as problem:
            sys.stderr.write(f"error: {problem}\n")
            return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
