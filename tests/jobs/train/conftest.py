"""Fixtures that the tests of packs share."""

import pytest
from packs_here import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with three pictures of one dog."""
    return write_photos(tmp_path_factory.mktemp("photos"))
