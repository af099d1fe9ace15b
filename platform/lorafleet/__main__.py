"""`python -m lorafleet`: the console script by another name."""

import sys

from lorafleet.cli import main

sys.exit(main())
