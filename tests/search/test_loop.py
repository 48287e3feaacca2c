"""What every search keeps: a branch is its path, scores alone decide, the cost is known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.search import ROOT, Round, SearchConfigError

PROMPT = "a red circle"
STAGES = ("a circle", "it moves", "it ends")


@pytest.fixture
def frames(tree):
    """A tree with uneven branching, an image round, both kinds of judges and rounds of two."""
    return tree((6, 1, 3, 1, 2), image_keep=4, judge_depths=(1, 3), keep=(3, 4))


@pytest.fixture
def compiled():
    """A list that grows by one whenever JAX compiles anything."""
    events = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return events


def test_best_of_n_is_a_tree_without_forks(make_search, linear, tree, same_video):
    search = make_search()
    line = search.run(PROMPT, linear(5))
    forks = search.run(PROMPT, tree((5, 1, 1, 1, 1)))
    assert line.to_json() == forks.to_json()
    for one, other in zip(line.candidates, forks.candidates, strict=True):
        same_video(one, other)


def test_four_are_the_first_four_of_eight(make_search, linear, same_video):
    search = make_search()
    four, eight = (search.run(PROMPT, linear(n)).candidates for n in (4, 8))
    for one, other in zip(four, eight[:4], strict=True):
        same_video(one, other)
        assert one.scores == other.scores


def test_a_branch_is_the_same_alone_and_among_others(make_search, frames, same_video):
    search = make_search()
    for candidate in search.run(PROMPT, frames, seed=3, prompt_index=2).candidates:
        same_video(search.replay(PROMPT, candidate.path, seed=3, prompt_index=2), candidate)


@pytest.mark.parametrize("devices, micro_batch", [(1, 2), (3, 1)])
def test_devices_and_micro_batches_change_no_bit(
    make_search, frames, same_video, devices, micro_batch
):
    one = make_search().run(PROMPT, frames, stage_prompts=STAGES)
    other = make_search(devices, micro_batch=micro_batch).run(PROMPT, frames, stage_prompts=STAGES)
    assert [n.to_json() for n in one.nodes] == [n.to_json() for n in other.nodes]
    for a, b in zip(one.candidates, other.candidates, strict=True):
        same_video(a, b)


@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_branches_together_are_those_computed_one_by_one(make_search, frames, micro_batch):
    one = make_search().run(PROMPT, frames)
    other = make_search(2, micro_batch=micro_batch, exact=False).run(PROMPT, frames)
    assert [n.path for n in one.nodes] == [n.path for n in other.nodes]
    for a, b in zip(one.candidates, other.candidates, strict=True):
        np.testing.assert_allclose(a.frames, b.frames, atol=1e-5)


def test_seeds_prompts_and_children_differ(make_search, linear):
    search = make_search()
    runs = [
        search.run(PROMPT, linear(2), seed=seed, prompt_index=index)
        for seed, index in ((0, 0), (1, 0), (0, 1))
    ]
    videos = {c.frames.tobytes() for run in runs for c in run.candidates}
    assert len(videos) == 6


def test_a_search_again_gives_the_same_record(make_search, frames):
    first, second = (
        json.dumps(make_search(new=new).run(PROMPT, frames, stage_prompts=STAGES).to_json())
        for new in (True, False)
    )
    assert first == second
    assert not {"seconds", "compile_seconds"} & set(json.loads(first)["cost"]["total"])


def test_twelve_children_have_twelve_paths_and_videos(make_search, tree, same_video):
    search = make_search()
    result = search.run(PROMPT, tree((2, 12, 1, 1, 1)), seed=1)
    assert [c.path[:2] for c in result.candidates] == [(i, j) for i in range(2) for j in range(12)]
    assert len({c.frames.tobytes() for c in result.candidates}) == 24
    same_video(search.replay(PROMPT, (1, 11, 0, 0, 0), seed=1), result.candidates[-1])


def test_pruning_keeps_the_best_scores_and_their_children_alone_go_on(make_search, frames):
    result = make_search().run(PROMPT, frames, stage_prompts=STAGES)
    kept_before = {()}
    for index in range(1 + max(node.round for node in result.nodes)):
        nodes = [node for node in result.nodes if node.round == index]
        assert {node.parent for node in nodes} == kept_before
        kept_before = {node.path for node in nodes if node.kept}
        values = [node.value for node in nodes if node.kept and node.value is not None]
        lost = [node.value for node in nodes if not node.kept]
        assert not lost or max(lost) <= min(values)
    assert kept_before == {result.best.path}


def test_a_preset_is_given_scores_and_paths_before_the_end_is_known(make_search):
    seen = []

    def search(outline, rng):
        first = yield Round(parents=[ROOT], to=2, children=3, judges="panel")
        seen.append([(n.path, sorted(n.scores), n.latents) for n in first])
        yield Round(parents=first[1:2], to=5, judges="panel")

    result = make_search().run(PROMPT, search)
    assert seen[-1] == [((i, 0), ["all", "first"], None) for i in range(3)]
    assert result.best.path == (1, 0, 0, 0, 0)
    assert [n.kept for n in result.nodes] == [False, True, False, True]


def test_image_rounds_ask_image_verifiers_by_the_first_stage_prompt(make_search, frames):
    result = make_search().run(PROMPT, frames, stage_prompts=STAGES)
    whole = make_search().run(PROMPT, frames)
    first, others = result.nodes[0], result.nodes[6]
    assert set(first.scores) == {"first"} and set(others.scores) == {"first", "all"}
    share = first.scores["first"] / whole.nodes[0].scores["first"]
    assert share == pytest.approx(len(STAGES[0]) / len(PROMPT))
    assert len(first.frames) == 1 and len(others.frames) == 2


def test_stages_are_judged_by_their_prompts_and_the_end_by_the_whole(make_search, frames):
    with_stages = make_search().run(PROMPT, frames, stage_prompts=STAGES)
    without = make_search().run(PROMPT, frames)
    shares = {}
    for node in with_stages.nodes:
        match = [n for n in without.nodes if n.path == node.path and n.scores]
        if node.scores and match:
            shares[node.round] = node.scores["first"] / match[0].scores["first"]
    lengths = [len(STAGES[0]), len(STAGES[0]), len(STAGES[1]), len(PROMPT)]
    judged = sorted(shares)
    assert [shares[r] for r in judged] == pytest.approx([n / len(PROMPT) for n in lengths])


def test_a_score_that_is_no_number_is_worst_and_recorded(make_search, linear, broken):
    result = make_search(verifiers=[broken]).run(PROMPT, linear(12))
    lost = [c for c in result.candidates if np.isnan(c.scores["broken"])]
    assert 0 < len(lost) < 12
    assert all(c.value == -np.inf for c in lost)
    assert not np.isnan(
        next(c for c in result.candidates if c.path == result.best.path).scores["broken"]
    )
    assert json.dumps(result.to_json(), allow_nan=False).count('"broken": null') == len(lost)


def test_equal_scores_go_to_the_smallest_path(make_search, linear, tree):
    class Same:
        name, needs = "same", "video"

        def prepare(self, params, prompts):
            return np.zeros((len(prompts), 1))

        def score(self, params, frames, query):
            return frames[:, 0, 0, 0, 0] * 0

    search = make_search(verifiers=[Same()])
    assert search.run(PROMPT, linear(12)).best.path == (0, 0, 0, 0, 0)
    pruned = search.run(PROMPT, tree((3, 2, 1, 1, 1), judge_depths=(1,), keep=(2,)))
    assert [c.path[:2] for c in pruned.candidates] == [(0, 0), (0, 1)]


def test_a_second_prompt_compiles_nothing(make_search, tree, compiled):
    search = make_search(2, new=True)
    rounds = tree((4, 2, 1, 2, 1), judge_depths=(1, 2), rule="median", keep=(0, 3))
    first = search.run(PROMPT, rounds)
    assert first.ledger["generator"].compilations <= 4
    assert first.ledger["decode"].compilations == 3
    before = len(compiled)
    assert before > 0
    second = search.run("another one", rounds, seed=9, prompt_index=1)
    assert len(compiled) == before
    assert second.ledger.total.compilations == 0


def test_every_later_unit_is_the_same_program(make_search, linear):
    search = make_search(new=True)
    assert search.run(PROMPT, linear(3)).ledger["generator"].compilations == 2


def test_the_ledger_counts_the_work(make_search, frames, walk):
    result = make_search().run(PROMPT, frames)
    units = 6 + 4 + 3 * 3 + 9 + 4 * 2
    generator, decode = result.ledger["generator"], result.ledger["decode"]
    assert generator.calls == units and generator.nfe == 6 * units
    assert decode.calls == 6 + 4 + 9 + 8
    assert result.ledger["first"].calls == 27 and result.ledger["all"].calls == 21
    assert generator.padding == decode.padding == 0
    assert generator.flops > 0 and generator.seconds > 0 and result.ledger["text"].seconds > 0


def test_padding_is_counted_apart(make_search, linear):
    one, two = (make_search(devices).run(PROMPT, linear(3)).ledger for devices in (1, 2))
    assert two["generator"].padding == 5 and two["generator"].padding_nfe == 5 * 6
    assert one["generator"].nfe == two["generator"].nfe == 3 * 5 * 6
    assert one["generator"].flops == two["generator"].flops
    assert two["decode"].padding == 1


def test_the_parent_is_computed_once_for_its_children(make_search, tree):
    rounds = tree((2, 4, 1, 1, 1))
    apart = make_search().run(PROMPT, rounds).ledger["generator"].flops
    shared = make_search(exact=False).run(PROMPT, rounds).ledger["generator"].flops
    history = 2 * 5 * 24 * 24
    assert apart - shared == 2 * 3 * history


def test_progress_ends_at_what_was_planned(make_search, linear):
    seen = []
    make_search().run(PROMPT, linear(3), progress=lambda *args: seen.append(args))
    assert seen[-1] == (90, 90) and sorted(seen) == seen


def test_a_search_that_does_not_fit_is_refused(make_search, linear, tree, broken):
    search = make_search()
    with pytest.raises(SearchConfigError, match="goes on to segment 6"):
        search.run(PROMPT, lambda *_: (Round(parents=[ROOT], to=6) for _ in [0]))
    with pytest.raises(SearchConfigError, match="2 stages by 1"):
        rounds = tree((2, 1, 1, 1, 1), judge_depths=(1, 2), keep=(1, 1))
        search.run(PROMPT, rounds, stage_prompts=["one"])
    with pytest.raises(SearchConfigError, match="image verifiers"):
        rounds = tree((2, 1, 1, 1, 1), image_keep=1)
        make_search(verifiers=[broken]).run(PROMPT, rounds)
    with pytest.raises(SearchConfigError, match="5 segments"):
        search.replay(PROMPT, (0, 0))
    with pytest.raises(SearchConfigError, match="micro_batch"):
        make_search(micro_batch=-1)


def test_a_branch_may_have_parts_without_elements(make_search, walk, linear, same_video):
    """As Pyramid-Flow's have when siblings share no noise; the compiler spreads these nowhere."""

    class WithEmptyPart(type(walk)):
        def init(self, *args):
            return super().init(*args), jnp.zeros((0, 3))

        def advance(self, params, condition, branch, key, segment, program=None):
            return super().advance(params, condition, branch[0], key, segment), branch[1]

        def estimate(self, params, condition, branch, segment, look="committed"):
            return super().estimate(params, condition, branch[0], segment)

    plain = make_search(2).run(PROMPT, linear(3))
    with_part = make_search(2, generator=WithEmptyPart()).run(PROMPT, linear(3))
    same_video(plain.best, with_part.best)


class Staged:
    """Scores are one more than the stage, or zero without one; counts what it prepares."""

    name, needs = "staged", "video"

    def __init__(self, mark=0):
        self.mark = mark

    def at_stage(self, stage):
        return Staged(stage + 1)

    def prepare(self, params, prompts):
        return jnp.full((len(prompts), 1 + self.mark), float(self.mark))

    def score(self, params, frames, query):
        return jnp.full(len(frames), query.mean())


@pytest.mark.parametrize("stage_prompts", [STAGES, ()])
def test_a_verifier_may_ask_other_questions_at_every_stage(make_search, tree, stage_prompts):
    search = make_search(verifiers=[Staged()])
    rounds = tree((2, 1, 1, 1, 1), judge_depths=(1, 2), keep=(2, 2))
    assert [r.stage for r in search.plan(PROMPT, rounds).rounds if r.judges] == [0, 1, None]
    result = search.run(PROMPT, rounds, stage_prompts=stage_prompts)
    scores = [node.scores["staged"] for node in result.nodes if node.scores]
    assert scores == [1, 1, 2, 2, 0, 0]
