"""Captions for photographs that have none, by models whose weights are on this machine."""
