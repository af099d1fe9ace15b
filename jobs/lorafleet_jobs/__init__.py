"""Training: images in, adapters out."""
