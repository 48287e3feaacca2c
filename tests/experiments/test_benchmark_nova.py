"""What NOVA's cache, visible tokens and shared parents save is counted, not claimed."""

import pytest

from experiments import benchmark_nova as benchmark
from tests import tiny_nova


@pytest.fixture(scope="module")
def config():
    return tiny_nova.config()


def test_a_cache_saves_reading_frames_again(config):
    found = benchmark.measure_cache(config)
    assert found["cached"] < found["again"]
    assert found["bytes"] == 2 * 2 * (2 * 2 * config.places * 16)


def test_visible_tokens_cost_less_than_their_room_and_that_less_than_all(config):
    found = benchmark.measure_visible(config)
    assert found["visible"] < found["room"] < found["masked"]


def test_siblings_cost_less_together(config):
    for shared, alone in benchmark.measure_sharing(config, 3).values():
        assert shared < alone
