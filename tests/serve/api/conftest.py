"""A service on the session's engine, without Ray."""

import pytest

from lorafleet_serve.api.service import EngineService


@pytest.fixture
def service(playground, registry):
    made = EngineService(playground, registry)
    yield made
    made.resolver.close()
