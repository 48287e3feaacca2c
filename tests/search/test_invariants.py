"""The invariants of every search, over random trees and every preset.

Trees are drawn by hypothesis; executables are made once and serve them all.
"""

import json
from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.search.analytic import (
    Diffusion,
    Exact,
    Flow,
    Image,
    Linear,
    Mixture,
    direction,
    make_search,
    preset,
)
from tts_jax.search import ROOT, Neighbour, Renoise, Round, paths
from tts_jax.search.presets import PRESETS

PROMPT = "a prompt"
UNITS, BLOCKS = 3, 2
DEPTH = UNITS * BLOCKS

cheap = settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def by_units(**options):
    generator = Exact(Mixture.random(frames=1), Flow, UNITS, BLOCKS, 2)
    verifiers = Linear(direction(UNITS)), Image(direction(1), name="image")
    return make_search(generator, *verifiers, **options)


@pytest.fixture(scope="module")
def models():
    """The same models on different meshes and in different batches; the first two are exact."""
    return {
        "one": by_units(),
        "eight": by_units(devices=8),
        "together": by_units(devices=2, exact=False, micro_batch=6),
        "whole": make_search(
            Exact(Mixture.random(), Diffusion, 1, 3, 2),
            Linear(direction()),
            Image(direction(1), name="image"),
        ),
    }


@st.composite
def searches(draw, moves):
    """A search of random rounds: how many children, which go on, what is judged or moved."""
    depth, rounds = 0, []
    while depth < DEPTH:
        inside = depth % BLOCKS > 0
        kinds = ["children", *(["neighbour", "renoise"][: 1 + inside] if moves and depth else [])]
        to = draw(st.integers(depth + 1, DEPTH))
        rounds.append(
            dict(
                to=to,
                kind=draw(st.sampled_from(kinds)),
                children=draw(st.lists(st.integers(1, 3 if depth else 12), min_size=1, max_size=3)),
                first=draw(st.integers(0, 11)),
                judged=draw(st.booleans()),
                stay=draw(st.sets(st.integers(0, 11), min_size=1, max_size=4)),
                strength=draw(st.sampled_from([0.3, 0.9])),
            )
        )
        depth = to

    def search(outline, rng):
        live = [ROOT]
        for r in rounds:
            start = live[0].depth
            proposals = {
                "children": None,
                "neighbour": Neighbour(r["strength"]),
                "renoise": Renoise(start, r["strength"]),
            }
            last = r["to"] == DEPTH
            grown = yield Round(
                parents=live,
                to=r["to"],
                children=[r["children"][i % len(r["children"])] for i in range(len(live))],
                first_child=r["first"],
                propose=proposals[r["kind"]],
                estimate="clean",
                judges="panel" if last or r["judged"] else None,
            )
            live = [grown[i] for i in sorted({i % len(grown) for i in r["stay"]})]

    return search


def same_videos(one, other, **tolerance):
    assert [n.path for n in one.nodes] == [n.path for n in other.nodes]
    for a, b in zip(one.nodes, other.nodes, strict=True):
        for name in ("frames", "latents"):
            first, second = getattr(a, name), getattr(b, name)
            if tolerance and first is not None:
                np.testing.assert_allclose(first, second, **tolerance)
            else:
                np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("moves", [False, True])
def test_a_branch_depends_on_seed_prompt_and_path_alone(models, moves):
    """Whatever the tree, the devices and the batch; in exact mode to the bit."""

    @cheap
    @given(searches(moves), st.integers(0, 99), st.integers(0, 9))
    def check(search, seed, index):
        options = dict(seed=seed, prompt_index=index)
        one, eight, together = (
            models[name].run(PROMPT, search, **options) for name in ("one", "eight", "together")
        )
        same_videos(one, eight)
        assert [n.to_json() for n in one.nodes] == [n.to_json() for n in eight.nodes]
        same_videos(one, together, atol=1e-5)
        for node in (one.candidates[0], one.candidates[-1]):
            path = paths.from_json(json.loads(json.dumps(paths.to_json(node.path))))
            again = models["eight"].replay(PROMPT, path, **options)
            np.testing.assert_array_equal(again.latents, node.latents)
            np.testing.assert_array_equal(again.frames, node.frames)

    check()


@pytest.mark.parametrize("form", ["whole", "one"])
@pytest.mark.parametrize("name", PRESETS)
def test_the_winner_of_every_preset_is_its_path_and_the_best_of_its_videos(models, name, form):
    search = models[form]
    result = search.run(PROMPT, preset(name, search.generator), seed=1, prompt_index=2)
    again = search.replay(PROMPT, result.best.path, seed=1, prompt_index=2)
    np.testing.assert_array_equal(again.latents, result.best.latents)
    np.testing.assert_array_equal(again.frames, result.best.frames)
    values = search.panel.value(
        np.array([[n.scores[v] for v in search.panel.names] for n in result.candidates]),
        np.ones(len(result.candidates), bool),
    )
    winner = next(i for i, n in enumerate(result.candidates) if n is result.incumbents[-1])
    assert values[winner] == max(values)
    assert result.candidates[winner].path == result.best.path


@pytest.mark.parametrize("name", PRESETS)
def test_incumbents_only_get_better(models, name):
    """By the panel's values of all videos beside each other, or the one verifier's score."""
    search = make_search(models["whole"].generator, Linear(direction()))
    search.programs = models["whole"].programs
    fields = dict(images=()) if name == "tree_of_frames" else {}
    for seed in range(2):
        if name == "video_t1":
            search = models["whole"]
        result = search.run(PROMPT, preset(name, search.generator, **fields), seed=seed)
        scores = [node.scores["reward"] for node in result.incumbents]
        rounds = [node.round for node in result.incumbents]
        assert rounds == sorted(rounds)
        if len(search.panel.names) == 1:
            assert all(a < b for a, b in pairwise(scores))
            assert scores[-1] == max(node.scores["reward"] for node in result.candidates)


@cheap
@given(sizes=st.tuples(st.integers(1, 13), st.integers(1, 13)), seed=st.integers(0, 99))
def test_fewer_branches_are_the_first_of_more(models, sizes, seed):
    few, many = (
        models["one"].run(PROMPT, preset("random_linear", branches=n), seed=seed).candidates
        for n in sorted(sizes)
    )
    for one, other in zip(few, many, strict=False):
        assert one.path == other.path and one.scores == other.scores
        np.testing.assert_array_equal(one.frames, other.frames)


def test_best_of_n_is_a_tree_that_forks_at_the_root(models):
    line = models["one"].run(PROMPT, preset("random_linear", branches=11))
    tree = preset("tree_of_frames", branching=(11, 1, 1), images=())
    forks = models["one"].run(PROMPT, tree)
    assert line.to_json() == forks.to_json()
    same_videos(line, forks)


class Same(Linear):
    """Cannot tell videos apart."""

    def score(self, params, frames, query):
        return frames[:, 0, 0, 0, 0] * 0


@pytest.mark.parametrize("name", PRESETS)
def test_of_equal_videos_the_first_by_path_wins(models, name):
    """Of the first round that made any: a later one would have to be better."""
    image = Same(direction(1), name="same image")
    image.needs = "image"
    search = make_search(models["one"].generator, Same(direction(1), name="same"), image)
    search.programs = models["one"].programs
    result = search.run(PROMPT, preset(name, search.generator))
    first = min(node.round for node in result.candidates)
    made = [node.path for node in result.candidates if node.round == first]
    assert result.best.path == min(made, key=paths.order)
    assert len(result.incumbents) == 1


@pytest.fixture
def compiled():
    """A list that grows by one whenever JAX compiles anything."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return events


@pytest.mark.parametrize(("units", "blocks"), [(5, 2), (7, 1)])
def test_a_tree_compiles_few_programs_and_a_second_prompt_none(compiled, units, blocks):
    generator = Exact(Mixture.random(frames=1), Flow, units, blocks, 1)
    verifiers = Linear(direction(units)), Image(direction(1), name="image")
    search = make_search(generator, *verifiers, devices=2, exact=False)
    images = (3, 2) + (1,) * (units - 2) if blocks > 1 else ()
    chosen = preset(
        "tree_of_frames",
        branching=(4, 1, 3) + (1,) * (units - 4) + (2,),
        images=images,
        judge_depths=(1, 3),
        rule="median",
        keep=(3, 0),
    )
    first = search.run(PROMPT, chosen)
    assert 0 < first.ledger["generator"].compilations <= 12
    before = len(compiled)
    second = search.run("another prompt", chosen, seed=9, prompt_index=1)
    assert len(compiled) == before
    assert second.ledger.total.compilations == 0
    assert {c.path for c in first.candidates} != {c.path for c in second.candidates}
