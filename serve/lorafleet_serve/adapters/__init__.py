"""An adapter's way from its name to the device: resolved, read from disk, cached in host memory and on the device."""
