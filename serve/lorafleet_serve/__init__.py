"""Serving: requests in, images out."""
