"""Limits that checking, training and serving share. Imports nothing."""

MAX_CHUNKS = 8
"""Of one prompt or caption, as the text encoders take it; 600 tokens of CLIP's."""
