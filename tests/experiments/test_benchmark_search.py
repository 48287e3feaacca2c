"""experiments.benchmark_search: its figures hold together, and sharing saves what it should."""

import dataclasses
import json

import pytest

from experiments import benchmark_search, cli
from experiments.benchmark_search import PUBLISHED_TEXT, measure_sharing
from tts_jax.generators.pyramid_flow.sampler_config import SamplerConfig
from tts_jax.generators.pyramid_flow.transformer import TransformerConfig


@pytest.fixture(scope="module")
def figures(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("benchmark") / "figures.json"
    argv = [
        "benchmark_search",
        f"--config.generator.checkpoint={checkpoint}",
        *(f"--config.verifiers[{i}].checkpoint={checkpoint}" for i in (0, 1)),
        "--config.search.branching=(2,1,1,1,1)",
        "--config.search.image_keep=1",
        "--config.search.judge_depths=()",
        "--config.search.keep=()",
        "--config.mesh.branch=1",
        "--repetitions=1",
        "--units=2",
        "--published=",
        f"--output={output}",
    ]
    program = benchmark_search
    assert cli.run(program.main, doc=program.__doc__, define=program.define, argv=argv) == 0
    return json.loads(output.read_text())


def test_both_ways_of_searching_are_timed(figures):
    times = figures["times"]
    assert times["speedup"] > 0
    for kind in ("batches", "branch_by_branch"):
        assert times[kind]["overhead"] > 1
        assert {"text", "search", "generator", "decode", "clip", "host"} <= set(
            times[kind]["parts"]
        )
        assert all(seconds >= 0 for seconds in times[kind]["parts"].values())


def test_rounds_send_places_and_indices_and_nothing_large(figures):
    rounds = figures["transfers"]["rounds"]
    assert len(rounds) == 2
    assert all(0 < row["bytes"] < 1000 for row in rounds)
    assert figures["transfers"]["prompt"]["bytes"] > 0


def test_units_are_counted_with_sharing_and_without(figures):
    counted = figures["sharing"]
    assert list(counted) == ["embedded"]
    first, second = counted["embedded"]["units"]
    assert first["exact"] == first["executed"]
    for kind in ("exact", "executed"):
        shared, alone = second[kind]
        assert shared < alone
        assert counted["embedded"]["total"][kind] == [
            a + b for a, b in zip(first[kind], second[kind], strict=True)
        ]
    assert second["exact"][0] < second["executed"][0]


@pytest.fixture(scope="module")
def published():
    """The first two units of 384p, five children each; one program serves all later units."""
    return measure_sharing(
        TransformerConfig.flux(),
        dataclasses.replace(SamplerConfig.published_384p(), history_programs=1),
        PUBLISHED_TEXT,
        children=5,
        units=2,
    )


def test_sharing_cuts_the_published_unit_after_the_first(published):
    for shared, alone in published["units"][1].values():
        assert shared <= 0.62 * alone


def test_the_form_of_the_original_costs_more_than_ours_made_one_by_one(published):
    first = published["units"][0]
    assert first["original"] == first["exact"]
    original, ours = (published["units"][1][kind][1] for kind in ("original", "exact"))
    assert original > ours


def test_sharing_halves_a_published_video(published):
    first, later = (published["units"][i]["executed"] for i in (0, 1))
    shared, alone = (a + 15 * b for a, b in zip(first, later, strict=True))
    assert shared <= 0.5 * alone
    assert (first[0] / first[1] + 15 * later[0] / later[1]) / 16 <= 0.5
