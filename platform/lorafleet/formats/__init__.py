"""LoRA files of other programs: read into bundles, and written from them."""
