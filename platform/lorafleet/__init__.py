"""What training and serving share: words, contracts and numerics. Imports no ray and no fastapi."""

__version__ = "0.1.0"
