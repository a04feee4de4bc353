"""A scene for every test of a defense."""

import pytest

from tests.trainer.defenses.scene import Scene, make_scene


@pytest.fixture
def scene() -> Scene:
    """Make it anew for each test."""
    return make_scene()
