"""An adapter on disk, the contract between training and serving: written, verified, cached, found by name."""
