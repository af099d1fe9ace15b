"""Bases as people have them: checkpoints of one file, and other VAEs, become folders in the diffusers layout."""
