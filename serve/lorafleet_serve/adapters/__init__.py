"""An adapter's way from its name to the device: resolved, on disk, in host memory, in a slot."""
