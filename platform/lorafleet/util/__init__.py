"""Small things that any room may use: files, locks, addresses, machines. Nothing here knows an adapter."""
