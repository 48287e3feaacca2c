"""Every preset on a pencil of its own: what it asks for, what that costs, and what it refuses.

The driver below carries rounds out by the words of `Round` alone and shares no code with the loop.
"""

import math
import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_jax.search import (
    PRESETS,
    ROOT,
    Move,
    Neighbour,
    Node,
    Outline,
    Renoise,
    SearchConfigError,
    load_preset,
    paths,
    plan,
)
from tts_jax.search.presets.backtracking import first_bad_unit

CHAIN = Outline(
    units=(10,),
    nfe=(3, *[2] * 9),
    stochastic=True,
    renoises=True,
    look_ahead=lambda segment, steps: steps,
    draft_nfe=(1,) * 10,
)
UNITS = Outline(units=(1,) * 5, nfe=(4, 3, 3, 3, 3), draft_nfe=(1,) * 5)
LONG_UNITS = Outline(
    units=(3,) * 5,
    nfe=(2,) * 15,
    stochastic=True,
    renoises=True,
    look_ahead=lambda segment, steps: steps,
    draft_nfe=(1,) * 15,
)
SIXTEEN = Outline(units=(1,) * 16, nfe=(1,) * 16, draft_nfe=(1,) * 16)
OUTLINES = {"chain": CHAIN, "units": UNITS, "long": LONG_UNITS, "sixteen": SIXTEEN}


def tied(path):
    return 0.0


def falling(path):
    """Smaller paths are better."""
    return -float(sum((0 if isinstance(s, Move) else s) * 0.1**i for i, s in enumerate(path)))


def hashed(path, seed=0):
    return random.Random(f"{seed} {path}").gauss(0, 1)


def broken(path):
    value = hashed(path)
    return value if value > 0 else (math.nan, -math.inf, None)[int(-value * 1000) % 3]


SCORES = {score.__name__: score for score in (tied, falling, hashed, broken)}


@dataclass
class Run:
    """What a driven search did."""

    rounds: list = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    advances: int = 0
    nfe: int = 0
    decodes: int = 0
    weights: dict | None = None
    videos: list[Node] = field(default_factory=list)
    nodes: list[list[Node]] = field(default_factory=list)


def settle(preset, **fields):
    """A preset's search with such a configuration."""
    return load_preset(SimpleNamespace(preset=preset, **fields))


def run(preset, outline, score=hashed, seed=0, cut=None, **fields):
    """Drives a preset and checks every round on the way.

    Args:
      cut: of each round, how large a share of its children a budget lets through, at random.
    """
    rng, result = random.Random(seed), Run()
    rounds = settle(preset, **fields)(outline, np.random.default_rng(seed))
    held, made_before, answer = set(), {}, None
    unit_starts = {0, *outline.unit_ends}
    while True:
        try:
            request = rounds.send(answer)
        except StopIteration as stop:
            result.weights = stop.value
            break
        full = request.fidelity == "full"
        name = lambda node, f=request.fidelity: (node.fidelity, node.path)  # noqa: E731
        for node in [*request.parents, *request.hold]:
            assert node is ROOT or name(node) in held, "a state that was forgotten"
        assert len({p.path for p in request.parents}) == len(request.parents) > 0
        assert 0 < request.to <= outline.num_segments
        if isinstance(request.propose, Neighbour):
            assert 0 <= request.propose.strength <= 1
        if isinstance(request.estimate, int):
            assert outline.look_ahead and request.estimate > 1 and request.judges

        made = _children(request)
        for path in made:
            _check_steps(path, outline, unit_starts)
            assert paths.depth(path) == request.to
        grown, nfe = {p.path for p in request.parents}, outline.nfe if full else outline.draft_nfe
        cost = {(): 0}
        for path in made:
            for end in range(len(made[path]) + 1, len(path) + 1):
                if path[:end] not in grown and not isinstance(path[end - 1], Move):
                    depth = paths.depth(path[: end - 1])
                    cost[path[:end]] = nfe[depth]
                    siblings = made_before.setdefault((request.fidelity, path[: end - 1]), set())
                    siblings.add(path[end - 1])
                    if depth not in unit_starts:
                        assert len(siblings) == 1 or outline.stochastic, "a fork that is none"
                grown.add(path[:end])
            again = (request.fidelity, path, "end")
            assert again not in made_before or path == made[path], "the same branch twice"
            made_before[again] = set()
        if cut:
            keep = rng.sample(range(len(made)), max(1, round(cut * rng.random() * len(made))))
            made = {path: made[path] for i, path in enumerate(made) if i in keep}
        answer = [Node(path, made[path], len(result.rounds)) for path in made]
        for node in answer:
            node.fidelity = request.fidelity
            if request.judges:
                node.value, node.scores = score(node.path), {"a": 1.0, "b": 0.0}
                if full and request.to == outline.num_segments and request.judges == "panel":
                    result.videos.append(node)
        held = {name(node) for node in [*answer, *request.hold]}
        result.rounds.append(request)
        result.nodes.append(answer)
        result.widths.append(len(made))
        result.advances += len(cost) - 1
        result.nfe += sum(cost.values())
        if request.judges:
            result.decodes += len(made)
            if isinstance(request.estimate, int):
                result.nfe += len(made) * outline.look_ahead(request.to - 1, request.estimate)
    assert result.videos, "no video to choose from"
    return result


def _children(request):
    if request.along:
        begin = {
            tuple(path): max(
                (p.path for p in request.parents if tuple(path[: len(p.path)]) == p.path), key=len
            )
            for path in request.along
        }
        assert len(begin) == len(request.along)
    else:
        begin = {}
        for i, parent in enumerate(request.parents):
            count, first = (
                n if isinstance(n, int) else n[i] for n in (request.children, request.first_child)
            )
            assert count >= 1 and first >= 0
            for index in range(first, first + count):
                if isinstance(request.propose, Neighbour):
                    step = Move("neighbour", index, 0, request.propose.strength)
                elif isinstance(request.propose, Renoise):
                    step = Move("renoise", index, request.propose.to, request.propose.strength)
                else:
                    step = index
                path = (*parent.path, step)
                begin[(*path, *[0] * (request.to - paths.depth(path)))] = parent.path
    return {path: begin[path] for path in sorted(begin, key=paths.order)}


def _check_steps(path, outline, unit_starts):
    for end, step in enumerate(path):
        if isinstance(step, Move) and step.kind == "renoise":
            depth = paths.depth(path[:end])
            assert outline.renoises and 0 < step.to <= depth
            assert not unit_starts & set(range(step.to, depth)) and step.to not in unit_starts
        elif isinstance(step, Move):
            assert paths.depth(path[:end]) in unit_starts


def tree_fields(outline):
    units = len(outline.units)
    return dict(
        branching=(4, *[1] * (units - 2), 2)[-units:],
        images=((1, 3, *[2] * units))[:units],
        judge_depths=tuple(range(1, units - 1, 2)),
        rule="median",
        keep=(3,) * len(range(1, units - 1, 2)),
    )


def fields_of(preset, outline):
    return tree_fields(outline) if preset == "tree_of_frames" else {}


@pytest.mark.parametrize("outline", OUTLINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_makes_sound_rounds_for_any_generator_and_scores(preset, outline):
    outline = OUTLINES[outline]
    for score in SCORES.values():
        run(preset, outline, score, **fields_of(preset, outline))


@given(
    preset=st.sampled_from(PRESETS),
    outline=st.sampled_from(sorted(OUTLINES)),
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
    score=st.sampled_from(sorted(SCORES)),
)
@settings(max_examples=150, deadline=None)
def test_a_preset_goes_on_with_any_part_of_a_round(preset, outline, seed, share, score):
    outline = OUTLINES[outline]
    run(preset, outline, SCORES[score], seed, cut=share, **fields_of(preset, outline))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_asks_the_same_for_the_same_scores_and_seed(preset):
    for outline in (CHAIN, LONG_UNITS):
        one, two = (run(preset, outline, seed=3, **fields_of(preset, outline)) for _ in range(2))
        assert [[n.path for n in nodes] for nodes in one.nodes] == [
            [n.path for n in nodes] for nodes in two.nodes
        ]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("outline", OUTLINES)
def test_the_plan_counts_what_is_counted_here(preset, outline):
    outline = OUTLINES[outline]
    fields = fields_of(preset, outline)
    expected = run(preset, outline, tied, **fields)
    planned = plan(settle(preset, **fields), outline, "tied")
    assert [r.width for r in planned.rounds] == expected.widths
    assert (planned.nfe, planned.decodes) == (expected.nfe, expected.decodes)
    assert planned.advances == expected.advances


ONE = {name: sum(outline.nfe) for name, outline in OUTLINES.items()}  # NFE of a video


def test_random_linear_search_is_one_round():
    result = run("random_linear", CHAIN, branches=7)
    assert (result.nfe, result.decodes, len(result.rounds)) == (7 * ONE["chain"], 7, 1)


def test_depths_judged_for_the_record_change_no_path():
    result = run("random_linear", CHAIN, branches=7, record_depths=(2, 5))
    assert (result.nfe, result.decodes) == (7 * ONE["chain"], 21)
    plain = run("random_linear", CHAIN, branches=7)
    assert [n.path for n in result.videos] == [n.path for n in plain.videos]


def layout(result):
    return [(r.to, r.children, r.judges, r.stage, len(r.parents), r.label) for r in result.rounds]


def test_the_embedded_tree_is_four_rounds():
    fields = dict(
        branching=(8, 2, 1, 1, 1), image_keep=3, judge_depths=(2,), rule="top_k", keep=(3,)
    )
    result = run("tree_of_frames", UNITS, **fields)
    assert layout(result) == [
        (1, 8, "image", 0, 1, ""),
        (3, 2, "panel", 0, 3, "top_k(3)"),
        (5, 1, "panel", None, 3, "top_k(3)"),
    ]
    assert result.nfe == 8 * 4 + 3 * 2 * 6 + 3 * 6
    firsts = sorted(result.nodes[0], key=lambda n: (-n.value, n.path))[:3]
    assert {p.path for p in result.rounds[1].parents} == {n.path for n in firsts}


def test_forks_without_judges_make_rounds_that_keep_everything():
    result = run("tree_of_frames", UNITS, branching=(2, 1, 3, 2, 1))
    assert layout(result) == [
        (2, 2, None, None, 1, ""),
        (3, 3, None, None, 2, ""),
        (5, 2, "panel", None, 6, ""),
    ]


@pytest.mark.parametrize(("score", "units"), [(falling, 90), (hashed, 90), (tied, 120)])
def test_the_published_tree_makes_ninety_units_and_with_ties_a_hundred_and_twenty(score, units):
    result = run("video_t1", SIXTEEN, score)
    assert result.advances == units
    images = 25 + 4 * 10
    assert result.decodes == images + (5 + 3 + 2 + 1 if units == 90 else 4 * 5)
    assert run("video_t1", SIXTEEN, score, cap=3).advances <= 90 + 8 + 2 * 2
    planned = plan(settle("video_t1"), SIXTEEN, "tied" if units == 120 else "distinct")
    assert planned.advances == units


def test_where_a_child_has_one_candidate_no_image_is_judged():
    result = run("video_t1", SIXTEEN)
    assert [r.to for r in result.rounds if r.judges == "image"] == [1, 2, 3, 4, 5]
    assert [(r.to, r.stage) for r in result.rounds if r.judges == "panel"] == [
        (5, 0),
        (10, 1),
        (14, 2),
        (16, None),
    ]


def test_rejected_candidates_go_no_further():
    """Five candidates of each child, of which 3, then 2, then 1 stay in a unit of 4 segments."""
    outline = Outline(units=(4, 4), nfe=(1,) * 8)
    fields = dict(branching=(2, 1), images=(5, 1), image_survivors=(3, 2))
    result = run("tree_of_frames", outline, **fields)
    # After the third segment a half of two is one.
    assert [(r.to, n, r.judges) for r, n in zip(result.rounds, result.widths, strict=True)] == [
        (1, 10, "image"),
        (2, 6, "image"),
        (3, 4, "image"),
        (8, 2, "panel"),
    ]
    assert result.nfe == 10 + 6 + 4 + 2 * 5
    for group in range(2):
        kept = [n for n in result.nodes[1] if n.path[0] // 5 == group]
        assert len(kept) == 3
    shares = run("tree_of_frames", outline, **fields | dict(image_survivors=(0.6, 0.5)))
    assert shares.widths == result.widths


def test_images_that_all_stay_are_not_judged():
    outline = Outline(units=(3, 1), nfe=(1,) * 4)
    fields = dict(branching=(2, 1), images=(3, 1), image_survivors=(3, 1.0))
    result = run("tree_of_frames", outline, **fields)
    assert layout(result)[0] == (3, 6, "image", 0, 1, "")


def test_all_candidates_of_the_last_unit_stand_for_the_final_pick():
    result = run("tree_of_frames", UNITS, branching=(2, 1, 1, 1, 1), images=(1, 1, 1, 1, 4))
    assert (result.widths[-1], result.rounds[-1].judges) == (8, "panel")


def test_stage_prompts_of_images_are_those_of_the_next_judge_depth():
    fields = dict(branching=(4, 1, 1, 1, 1), images=(2,) * 5, judge_depths=(1, 2), keep=(2, 1))
    result = run("tree_of_frames", UNITS, **fields)
    stages = [(r.to, r.stage) for r in result.rounds if r.judges == "image"]
    assert stages == [(1, 0), (2, 0), (3, 1), (4, None)]


@pytest.mark.parametrize(
    ("rule", "more", "live"),
    [
        ("top_k", {}, (4, 2)),
        ("fraction", dict(share=0.5, keep=(0, 0)), (4, 2)),
        ("all_yes", dict(floors={"a": 0.5}, keep=(0, 3)), (8, 3)),
        ("all_yes", dict(floors={"b": 0.5}, keep=(0, 0)), (1, 1)),
        ("median", dict(keep=(0, 0)), (4, 2)),
    ],
)
def test_a_rule_says_how_many_paths_live_on(rule, more, live):
    fields = dict(branching=(8, 1, 1, 1, 1), judge_depths=(0, 2), rule=rule, keep=(4, 2)) | more
    result = run("tree_of_frames", UNITS, **fields)
    assert tuple(len(r.parents) for r in result.rounds[1:]) == live


@pytest.mark.parametrize("outline", ["chain", "long"])
@pytest.mark.parametrize(("every", "ahead"), [(1, 1), (1, 6), (4, 3)])
def test_beam_search_costs_its_formula(outline, every, ahead):
    outline = OUTLINES[outline]
    result = run("beam", outline, beams=3, children=4, every=every, look_ahead=ahead)
    judged = -(-outline.num_segments // every)
    extra = 12 * ahead * (judged - 1) if ahead > 1 else 0
    assert result.nfe == 12 * sum(outline.nfe) + extra
    assert result.decodes == 12 * judged
    assert {len(r.parents) for r in result.rounds[1:]} == {3}


def test_beams_come_from_anywhere_and_greedy_chains_stay_apart():
    score = lambda path: float(path[0] == 0)  # noqa: E731
    beams = run("beam", CHAIN, score, beams=2, children=3)
    assert {n.path[0] for n in beams.nodes[2]} == {0}
    chains = run("greedy", CHAIN, score, chains=2, children=3)
    assert {n.path[0] for n in chains.nodes[2]} == {0, 3}


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_greedy_search_costs_its_formula(alpha):
    result = run("greedy", CHAIN, chains=3, children=5, every=2, alpha=alpha)
    assert (result.nfe, result.decodes) == (15 * ONE["chain"], 15 * 5)
    assert {len(r.parents) for r in result.rounds[1:]} == {3}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_steering_keeps_its_number_of_particles(share):
    result = run("fk_steering", CHAIN, particles=6, depths=(2, 4, 8), resample_below=share)
    assert (result.nfe, result.decodes) == (6 * ONE["chain"], 24)
    assert set(result.widths) == {6} and len(result.weights) == 6
    forks = [max([1, *r.children]) > 1 for r in result.rounds[1:]]
    assert any(forks) == (share > 0)


TILT, GAIN = 1.0, 0.7


@pytest.mark.parametrize("potential", ["diff", "max", "add", "value"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_steered_samples_follow_the_tilted_distribution(potential, share):
    """Three coins of +-1 each, and a reward of 0.7 for each head: tilted, P(x) ~ exp(0.7 x)."""
    outline = Outline(units=(1, 1, 1), nfe=(1, 1, 1))
    sums = np.zeros(3)
    for seed in range(20):

        def coins(path, seed=seed):
            return [1 if hashed(path[: i + 1], seed) > 0 else -1 for i in range(len(path))]

        result = run(
            "fk_steering",
            outline,
            lambda path, coins=coins: GAIN * sum(coins(path)),
            seed,
            particles=100,
            tilt=TILT,
            potential=potential,
            resample_below=share,
        )
        weights = np.exp(list(result.weights.values()))
        sums += weights @ np.array([coins(path) for path in result.weights]) / weights.sum()
    np.testing.assert_allclose(sums / 20, math.tanh(TILT * GAIN), atol=0.08)


def test_a_particle_without_a_reward_has_no_weight():
    dead = lambda path: math.nan if path[0] == 1 else 0.0  # noqa: E731
    result = run("fk_steering", CHAIN, dead, particles=3, depths=(5,), resample_below=0.0)
    assert [w == -math.inf for w in result.weights.values()] == [False, True, False]
    again = run("fk_steering", CHAIN, dead, particles=3, depths=(5,), resample_below=1.0)
    assert 1 not in {path[0] for path in again.weights}


def test_successive_halving_costs_its_widths():
    result = run("successive_halving", CHAIN, widths=(8, 4, 1), depths=(2, 5))
    assert result.nfe == 8 * 5 + 4 * 6 + 10
    assert result.decodes == 8 + 4 + 1


class Calibration:
    """Predicts what the hash of a whole path will be, as well as it is told."""

    def __init__(self, deviation, silent=()):
        self.deviation, self.silent = deviation, silent

    def predict(self, depth, nodes):
        if depth in self.silent:
            return None
        return np.array([node.value for node in nodes]), self.deviation


def test_a_calibration_keeps_what_may_win_and_skips_depths_that_say_little():
    fields = dict(widths=(8, 8, 8), depths=(2, 5), delta=0.1)
    sure = run("successive_halving", CHAIN, calibration=Calibration(1e-9), **fields)
    assert sure.widths == [8, 1, 1]
    unsure = run("successive_halving", CHAIN, calibration=Calibration(1e9), **fields)
    assert unsure.widths == [8, 8, 8]
    capped = fields | dict(widths=(8, 3, 2))
    assert run("successive_halving", CHAIN, calibration=Calibration(1e9), **capped).widths == [
        8,
        3,
        2,
    ]
    deaf = run("successive_halving", CHAIN, calibration=Calibration(1e-9, silent=(2,)), **fields)
    assert [r.to for r in deaf.rounds] == [5, 10]


FIFTY = Outline(units=(50,), nfe=(1,) * 50, stochastic=True, renoises=True)


@pytest.mark.parametrize(
    ("schedule", "sizes", "elites", "nfe"),
    [
        ((5, 20, 30, 45), (10, 5, 5, 5, 5), 2, 1000),
        ((5, 20, 30, 40), (14, 7, 7, 7, 10), 3, 1465),
        ((0, 20, 30, 40), (42, 26, 26, 26, 30), 5, 5000),
        ((5, 20), (6, 3, 3), 0, 6 * 50 + 3 * 45 + 3 * 30),
    ],
)
def test_evolutionary_search_costs_as_published(schedule, sizes, elites, nfe):
    fields = dict(schedule=schedule, sizes=sizes, elites=elites)
    for score in (tied, hashed):
        result = run("evolutionary", FIFTY, score, **fields)
        assert (result.nfe, result.decodes) == (nfe, sum(sizes))


def test_generations_descend_from_all_states_at_their_depth():
    result = run("evolutionary", FIFTY, schedule=(5, 20), sizes=(10, 8, 20), tournament=0.05)
    (last,) = (r for r in result.rounds if "elites" in r.label and r.to == 50 and r.along)
    origins = {parent.round for parent in last.parents}
    assert len(origins) > 1, "of the first generation and of the second"
    values = {n.path: n.value for n in result.videos[:18]}
    elites = [p for p in last.along if not any(isinstance(s, Move) for s in p[20:])]
    best = sorted(values, key=values.get)[-2:]
    assert any(p[:20] in {b[: len(p[:20])] for b in best} for p in elites)


def test_mutants_at_the_start_are_neighbours_of_individuals():
    result = run("evolutionary", FIFTY, schedule=(0, 20), sizes=(4, 6, 2), mutation=0.6)
    second = result.nodes[2]
    assert {path[0] for path in (n.path for n in second)} == {
        Move("neighbour", i, 0, 0.8) for i in range(6)
    }
    assert {n.path[1] for n in second} <= set(range(4))


def test_between_units_a_mutant_is_another_next_unit():
    result = run("evolutionary", UNITS, schedule=(2,), sizes=(4, 6))
    assert (result.nfe, result.decodes) == (4 * ONE["units"] + 6 * 9, 10)
    assert all(isinstance(step, int) for n in result.videos for step in n.path)


def test_zero_order_search_never_makes_its_pivot_again():
    result = run("zero_order", CHAIN, neighbours=3, iterations=6)
    assert (result.nfe, result.decodes) == ((1 + 6 * 3) * ONE["chain"], 19)
    pivot = max(result.nodes[0], key=lambda n: n.value)
    moves = lambda path: tuple(s for s in path if isinstance(s, Move))  # noqa: E731
    for nodes in result.nodes[1:]:
        assert {moves(n.path)[:-1] for n in nodes} == {moves(pivot.path)}
        pivot = max([pivot, *nodes], key=lambda n: n.value)
    assert run("zero_order", CHAIN, tied).nodes[-1][0].path[0].index >= 12


def test_search_over_paths_costs_its_formula():
    fields = dict(samples=3, children=4, start=4, back=1, forward=3)
    result = run("search_over_paths", CHAIN, **fields)
    assert [r.to for r in result.rounds] == [4, 6, 8, 10]
    assert result.nfe == 3 * (3 + 2 * 3) + 12 * 2 * (3 * 3)
    assert result.decodes == 3 * 12
    assert [r.propose for r in result.rounds] == [None, Renoise(3), Renoise(5), Renoise(7)]


def test_search_over_paths_noises_again_in_every_unit():
    result = run("search_over_paths", LONG_UNITS, samples=2, children=3)
    assert [r.to for r in result.rounds] == [d + 3 * u for u in range(5) for d in (2, 3)]
    assert result.nfe == 5 * (2 * 2 * 2 + 6 * 2 * 2)


def test_rollover_spends_its_quota_where_nothing_improves():
    for score in (tied, falling):
        result = run("rollover_budget", CHAIN, score, quota=7, batch=3)
        # The first segment takes one batch, and what is left of its quota goes to the second.
        assert result.nfe == 3 * 3 + (7 + 4) * 2 + 8 * 7 * 2
        assert result.decodes == 7 * 10


def test_the_first_improving_child_goes_on_and_the_rest_of_the_quota_rolls_over():
    better = lambda path: float(len(path))  # noqa: E731
    result = run("rollover_budget", CHAIN, better, quota=4, batch=2)
    assert result.nfe == 2 * ONE["chain"] and len(result.rounds) == 10
    late = lambda path: float(len(path) == 1 or len(path) > 9)  # noqa: E731
    result = run("rollover_budget", CHAIN, late, quota=4, batch=2)
    assert max(n.path[0] for n in result.nodes[0]) == 1
    assert sum(r.to == 2 for r in result.rounds) == 3, "4 of its own and 2 left over"


@pytest.mark.parametrize("outline", sorted(OUTLINES))
def test_backtracking_restarts_from_the_prefix_before_the_first_bad_unit(outline):
    outline = OUTLINES[outline]
    ends = (0, *outline.unit_ends)
    units = len(outline.units)
    bad = min(2, units - 1)
    # Every prefix is worth its length, but for those whose bad unit is child 0.
    score = lambda path: len(path) - 50.0 * (len(path) > ends[bad] and path[ends[bad]] == 0)  # noqa: E731
    result = run("backtracking", outline, score, branches=3, restarts=1, children=2)
    again = result.rounds[units]
    if units > 1:
        assert (len(again.parents[0].path), again.first_child) == (ends[bad], 1)
    else:
        assert (again.parents, again.first_child) == ([ROOT], 3)
    rest = sum(outline.nfe[ends[bad] :])
    assert result.nfe == 3 * sum(outline.nfe) + 2 * rest
    assert result.decodes == 3 * units + 2 * (units - bad)


def test_backtracking_goes_on_from_what_it_found():
    result = run("backtracking", UNITS, branches=4, restarts=5, children=2)
    restarts = [r for r in result.rounds if r.label]
    assert len(restarts) == 5
    assert result.nfe <= 14 * ONE["units"]
    paths_made = [n.path for n in result.videos]
    assert len(set(paths_made)) == len(paths_made) == 14


@pytest.mark.parametrize(
    ("values", "tolerance", "unit"),
    [
        ([5, 5, 6, 4, 3], 0.0, 2),
        ([5, 3, 6, 4, 3], 0.0, 0),
        ([5, 5, 6, 4, 0], 3.0, 3),
        ([5, 5, 6, 4, 3], 9.0, 2),
        ([0, 0, 0, 0], 0.0, 0),
        ([5, 5, -math.inf, -math.inf], 0.0, 1),
        ([-math.inf, -math.inf, 1, 2], 0.0, 0),
    ],
)
def test_the_first_bad_unit_is_the_first_to_lose_more_than_tolerated(values, tolerance, unit):
    assert first_bad_unit(values, tolerance) == unit


def test_drafts_are_explored_and_the_best_are_made_in_full():
    result = run("draft_then_replay", CHAIN, branches=6, replays=2)
    assert (result.nfe, result.decodes) == (6 * 10 + 2 * ONE["chain"], 8)
    drafts = sorted(result.nodes[0], key=lambda n: -n.value)[:2]
    assert {n.path for n in result.videos} == {n.path for n in drafts}
    assert {n.fidelity for n in result.videos} == {"full"}


def test_a_preset_reads_the_fields_that_other_presets_share():
    """The embedded configuration holds the fields of two presets side by side."""
    both = dict(branching=(8, 2, 1, 1, 1), image_keep=3, judge_depths=(2,), keep=(3,), branches=4)
    assert run("random_linear", UNITS, rule="top_k", **both).nfe == 4 * ONE["units"]


ODE = Outline(units=(10,), nfe=(1,) * 10)
TREE = dict(branching=(2, 1, 1, 1, 1))


@pytest.mark.parametrize(
    ("preset", "outline", "fields", "message"),
    [
        ("random_linear", UNITS, dict(branches=0), "branches is 0, but at least 1"),
        ("random_linear", UNITS, dict(record_depths=(5,)), r"record_depths \[5\] are not all in"),
        ("random_linear", UNITS, dict(record_depths=(2, 2)), "do not increase"),
        ("tree_of_frames", UNITS, dict(branching=(2, 1, 1)), "3 entries for a video of 5 units"),
        ("tree_of_frames", UNITS, dict(branching=(2, 1, 0, 1, 1)), "without children"),
        ("tree_of_frames", UNITS, TREE | dict(images=(2, 1)), "images has 2 entries"),
        ("tree_of_frames", UNITS, TREE | dict(images=(0,) * 5), "without children"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(1, 5), keep=(1, 1)), r"in 0\.\.4"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(-1,), keep=(1,)), r"in 0\.\.4"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(3, 1), keep=(1, 1)), "do not increase"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(4,), keep=(1,)), "the final pick"),
        (
            "tree_of_frames",
            UNITS,
            TREE | dict(judge_depths=(0,), keep=(1,), image_keep=1),
            "image_keep judges already",
        ),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(1,)), "0 entries for 1 judge depths"),
        ("tree_of_frames", UNITS, TREE | dict(rule="best"), "none of median, all_yes, top_k"),
        ("tree_of_frames", UNITS, TREE | dict(rule="all_yes"), "all_yes needs floors"),
        ("tree_of_frames", UNITS, TREE | dict(rule="fraction", share=2.0), r"share of 2.0 is not"),
        ("tree_of_frames", UNITS, TREE | dict(image_keep=3), "image_keep is 3 of 2"),
        ("tree_of_frames", UNITS, TREE | dict(image_keep=-1), "image_keep is -1"),
        ("tree_of_frames", CHAIN, dict(branching=(2,), image_keep=1), "more than one unit"),
        ("tree_of_frames", UNITS, TREE | dict(image_survivors=(0,)), "a candidate must stay"),
        ("tree_of_frames", UNITS, TREE | dict(image_survivors=(0.0,)), "share of 0.0"),
        ("tree_of_frames", UNITS, TREE | dict(judge_depths=(1,), keep=(0,)), "keeps 0 paths"),
        (
            "tree_of_frames",
            UNITS,
            TREE | dict(judge_depths=(1,), keep=(-2,), rule="median"),
            "keeps -2 paths",
        ),
        (
            "tree_of_frames",
            UNITS,
            TREE | dict(judge_depths=(1,), keep=(3,)),
            "keeps 3 paths out of at most 2",
        ),
        ("video_t1", SIXTEEN, dict(cap=-1), "cap is -1"),
        ("beam", CHAIN, dict(beams=0), "beams is 0"),
        ("beam", CHAIN, dict(every=0), "every is 0"),
        ("beam", UNITS, dict(look_ahead=2), "look_ahead is 2, but this generator"),
        ("beam", ODE, {}, "forks inside a unit, after segment 1,"),
        ("greedy", CHAIN, dict(chains=0), "chains is 0"),
        ("greedy", CHAIN, dict(alpha=-0.1), "alpha is -0.1"),
        ("greedy", ODE, dict(every=5), "after segment 5,"),
        ("fk_steering", CHAIN, dict(particles=0), "particles is 0"),
        ("fk_steering", CHAIN, dict(potential="min"), "potential 'min' is none of diff, max"),
        ("fk_steering", CHAIN, dict(depths=(0, 4)), r"are not all in 1\.\.9"),
        ("fk_steering", CHAIN, dict(resample_below=1.5), "resample_below is 1.5"),
        ("fk_steering", ODE, {}, "needs a stochastic solver"),
        ("successive_halving", CHAIN, dict(widths=(4, 0)), "widths is 0"),
        ("successive_halving", CHAIN, dict(widths=(2, 4)), "can only become fewer"),
        ("successive_halving", CHAIN, dict(widths=(4, 2), depths=(1, 2)), "2 entries for 2 widths"),
        ("successive_halving", CHAIN, dict(delta=0), "delta is 0"),
        ("successive_halving", CHAIN, dict(calibration="nowhere.json"), "nowhere.json cannot be"),
        ("evolutionary", CHAIN, dict(schedule=(2, 10), sizes=(2, 2, 2)), r"not all in 0\.\.9"),
        ("evolutionary", CHAIN, dict(schedule=(2, 4), sizes=(2, 2)), "2 entries for 2 depths"),
        ("evolutionary", CHAIN, dict(schedule=(2,), sizes=(2, 0)), "sizes is 0"),
        ("evolutionary", CHAIN, dict(tournament=0.0), "share of 0.0"),
        ("evolutionary", CHAIN, dict(mutation=1.2), "mutation is 1.2"),
        ("evolutionary", CHAIN, dict(elites=-1), "elites is -1"),
        ("evolutionary", ODE, {}, "needs a stochastic solver"),
        ("evolutionary", ODE, dict(elites=0), "cannot add noise"),
        ("zero_order", UNITS, dict(neighbours=0), "neighbours is 0"),
        ("zero_order", UNITS, dict(strength=1.1), "strength is 1.1"),
        ("search_over_paths", CHAIN, dict(forward=1), "forward must be more"),
        ("search_over_paths", CHAIN, dict(start=1), "start must be more"),
        ("search_over_paths", CHAIN, dict(back=0), "back is 0"),
        ("search_over_paths", ODE, {}, "noises states again"),
        ("rollover_budget", CHAIN, dict(quota=0), "quota is 0"),
        ("rollover_budget", CHAIN, dict(batch=0), "batch is 0"),
        ("rollover_budget", ODE, {}, "needs a stochastic solver"),
        ("backtracking", UNITS, dict(branches=0), "branches is 0"),
        ("backtracking", UNITS, dict(restarts=-1), "restarts is -1"),
        ("backtracking", UNITS, dict(tolerance=-1.0), "tolerance is -1.0"),
        ("draft_then_replay", UNITS, dict(branches=2, replays=3), "replays is 3 of 2 drafts"),
        ("draft_then_replay", ODE, {}, "needs a generator that makes drafts"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(preset, outline, fields, message):
    with pytest.raises(SearchConfigError, match=message) as refused:
        run(preset, outline, **fields)
    assert "\n" not in str(refused.value) and ". " not in str(refused.value)


def test_forks_between_units_need_no_stochastic_solver():
    outline = Outline(units=(3,) * 5, nfe=(1,) * 15)
    for preset in ("beam", "greedy"):
        run(preset, outline, every=3)
    run("fk_steering", outline, depths=(3, 9))


def test_no_such_preset_is_refused():
    with pytest.raises(SearchConfigError, match="none of backtracking, beam"):
        settle("magic")
