"""Fixtures that the tests of packs share."""

import pytest
from packs_here import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with three pictures of one dog."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def calls(loaded):
    """The rows of each call of the UNet of the module's own `loaded` so far."""
    seen = []
    handle = loaded.unet.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    yield seen
    handle.remove()
