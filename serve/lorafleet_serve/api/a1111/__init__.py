"""The routes of A1111's web UI that its clients need, answered by the same engine. Refuses to know files."""
