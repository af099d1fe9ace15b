"""One submission from its plan to its end: the driver, what a user may ask of it, and how its end is told."""
