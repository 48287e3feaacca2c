"""A search that is stopped goes on as if nothing had been, and what fails is one clear sentence."""

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
from tts_jax.search import Budget, SearchConfigError, SearchFault
from tts_jax.search.presets import PRESETS
from tts_jax.search.programs import Programs
from tts_jax.search.store import RoundStore

PROMPT = "a prompt"


class Memory:
    """Keeps every save; begins with one of them."""

    def __init__(self, saved=None):
        self.saves = [] if saved is None else [saved]
        self.first = saved

    def load(self):
        return copy.deepcopy(self.first)

    def save(self, saved):
        self.saves.append(copy.deepcopy(saved))


class Killed(Exception):
    """Ends a search from outside."""


@pytest.fixture(scope="module")
def searches():
    """Of a video in one unit and in two, with verifiers of videos and images."""
    made = {}
    for name, arguments, frames in (
        ("whole", (Diffusion, 1, 3, 2), 2),
        ("units", (Flow, 2, 2, 2), 1),
    ):
        generator = Exact(Mixture.random(frames=frames), *arguments)
        length = frames * generator.num_units
        made[name] = make_search(
            generator, Linear(direction(length)), Image(direction(1), name="image")
        )
    return made


def find(search, name, **options):
    return search.run(PROMPT, preset(name, search.generator), seed=2, prompt_index=1, **options)


def same(one, other):
    assert one.to_json() == other.to_json()
    assert one.weights == other.weights
    for a, b in zip(one.nodes, other.nodes, strict=True):
        for name in ("frames", "latents"):
            mine, theirs = getattr(a, name), getattr(b, name)
            assert (mine is None) == (theirs is None)
            if mine is not None:
                np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(one.best.frames, other.best.frames)


@pytest.mark.parametrize("form", ["whole", "units"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_search_goes_on_after_any_round_as_if_it_had_not_stopped(searches, tmp_path, name, form):
    store = Memory()
    undisturbed = find(searches[form], name, store=store)
    assert len(store.saves) == len(undisturbed.requests) - 1
    for number, saved in enumerate(store.saves):
        rest = Memory(saved)
        if number == len(store.saves) // 2:  # one goes over the disk
            rest = RoundStore(tmp_path)
            rest.save(saved)
        same(find(searches[form], name, store=rest), undisturbed)


@pytest.mark.parametrize("name", ["tree_of_frames", "fk_steering", "zero_order", "random_linear"])
def test_a_search_whose_budget_is_short_goes_on_the_same(searches, name):
    whole = find(searches["units"], name).ledger.total.nfe
    cut = 0
    for share in (0.45, 0.7, 0.9):
        budget, store = Budget(nfe=int(share * whole)), Memory()
        undisturbed = find(searches["units"], name, budget=budget, store=store)
        assert undisturbed.ledger.total.nfe <= budget.nfe
        cut += undisturbed.cut
        for saved in store.saves:
            same(find(searches["units"], name, budget=budget, store=Memory(saved)), undisturbed)
    assert cut


def test_a_budget_in_seconds_goes_on_after_its_first_video_was_timed(searches):
    generator = searches["units"].generator
    search = make_search(generator, Linear(direction(2)), Image(direction(1), name="image"))
    store, budget = Memory(), Budget(seconds=1e6)
    undisturbed = find(search, "tree_of_frames", budget=budget, store=store)
    assert undisturbed.requests[0].label == "measured first"
    for saved in store.saves:
        same(find(search, "tree_of_frames", budget=budget, store=Memory(saved)), undisturbed)


def test_stopped_at_any_call_at_most_one_round_is_made_again(searches):
    search = searches["units"]
    calls, undisturbed = [], find(search, "tree_of_frames")
    find(search, "tree_of_frames", progress=lambda *args: calls.append(args))
    rounds = search.plan(PROMPT, preset("tree_of_frames", search.generator)).rounds
    most = max(r.cost.nfe for r in rounds)
    for stop in range(0, len(calls), 3):
        left = iter(range(stop))

        def progress(done, planned, left=left):
            if next(left, None) is None:
                raise Killed(done)

        store = Memory()
        with pytest.raises(Killed) as killed:
            find(search, "tree_of_frames", store=store, progress=progress)
        saved = store.saves[-1] if store.saves else None
        kept = saved.ledger.total.nfe if saved else 0
        assert 0 < killed.value.args[0] - kept <= most
        same(find(search, "tree_of_frames", store=Memory(saved)), undisturbed)


def test_another_preset_than_the_saved_one_is_refused(searches):
    store = Memory()
    find(searches["units"], "tree_of_frames", store=store)
    with pytest.raises(SearchConfigError, match="round 0 is not the one that was saved"):
        find(searches["units"], "zero_order", store=Memory(store.saves[0]))


def test_states_of_another_generator_are_refused(searches):
    store = Memory()
    find(searches["units"], "tree_of_frames", store=store)
    states = {name: leaves[:-1] for name, leaves in store.saves[-1].states.items()}
    store.saves[-1].states.clear()
    store.saves[-1].states.update(states)
    with pytest.raises(SearchFault, match="not those of this generator"):
        find(searches["units"], "tree_of_frames", store=Memory(store.saves[-1]))


class Faulty(Linear):
    """Gives, of every video, what it is told."""

    def __init__(self, fault):
        super().__init__(direction(2))
        self.fault = fault

    def score(self, params, frames, query):
        return self.fault(super().score(params, frames, query))


def _raise(scores):
    raise ZeroDivisionError("no\nsuch thing")


def _raise_on_the_device(scores):
    return jax.pure_callback(_raise, jax.ShapeDtypeStruct(scores.shape, scores.dtype), scores)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda s: s * jnp.nan, "none of the 4 videos of prompt 1 could be judged"),
        (lambda s: s + jnp.inf, "none of the 4 videos of prompt 1 could be judged"),
        (lambda s: s[:, None], r"'reward' gives scores of shape \(1, 1\) for 1 videos"),
        (lambda s: s.sum(), r"'reward' gives scores of shape \(\) for 1 videos"),
        (lambda s: jnp.concatenate([s, s]), r"'reward' gives scores of shape \(2,\)"),
        (_raise, "'reward' fails: ZeroDivisionError: no$"),
        (_raise_on_the_device, "'reward' fails: ZeroDivisionError: no$"),
    ],
)
def test_a_verifier_that_fails_is_named(searches, fault, message):
    search = make_search(searches["units"].generator, Faulty(fault))
    with pytest.raises(SearchFault, match=message):
        find(search, "random_linear")


def test_a_verifier_that_cannot_prepare_is_named(searches):
    class Unready(Linear):
        def prepare(self, params, prompts):
            raise KeyError("query")

    search = make_search(searches["units"].generator, Unready(direction(2)))
    with pytest.raises(SearchFault, match="a verifier fails: KeyError: 'query'"):
        find(search, "random_linear")


class Nan(Exact):
    """Gives nothing for the share of its branches that begins above a threshold."""

    threshold = -jnp.inf

    def advance(self, params, condition, branch, key, segment, program=None):
        made = super().advance(params, condition, branch, key, segment, program)
        bad = jax.random.uniform(key.keys[0])
        return jax.tree.map(
            lambda x: (
                jnp.where(bad > self.threshold, jnp.nan, x)
                if jnp.issubdtype(x.dtype, jnp.floating)
                else x
            ),
            made,
        )


def test_a_generator_that_gives_nothing_is_one_sentence():
    search = make_search(Nan(Mixture.random(frames=1), Flow, 2, 1, 1), Linear(direction(2)))
    with pytest.raises(SearchFault, match="none of the 4 videos of prompt 1 could be judged"):
        find(search, "random_linear")


def test_branches_without_numbers_lose_and_the_others_go_on():
    generator = Nan(Mixture.random(frames=1), Flow, 2, 1, 1)
    generator.threshold = 0.6
    result = find(make_search(generator, Linear(direction(2))), "random_linear")
    lost = [node for node in result.candidates if np.isnan(node.scores["reward"])]
    assert 0 < len(lost) < 4 and all(node.value == -np.inf for node in lost)
    assert np.isfinite(result.best.frames).all()


@pytest.fixture
def small_memory(monkeypatch):
    """`small_memory(limit, kinds)`: programs of more branches do not fit."""
    call = Programs.__call__

    def shrink(limit, kinds=("advance", "see", "look", "score", "decode")):
        def limited(self, cost, key, build, *args, live=0, dead=0, **work):
            kind = key if isinstance(key, str) else key[0]
            if kind in kinds and live + dead > limit:
                raise jax.errors.JaxRuntimeError(
                    f"RESOURCE_EXHAUSTED: Out of memory while trying to allocate {live}"
                )
            return call(self, cost, key, build, *args, live=live, dead=dead, **work)

        monkeypatch.setattr(Programs, "__call__", limited)

    return shrink


@pytest.fixture(scope="module")
def in_pairs(searches):
    """Random linear search, two branches at once."""
    generator = searches["units"].generator
    search = make_search(generator, Linear(direction(2)), exact=False, micro_batch=2)
    return find(search, "random_linear")


@pytest.mark.parametrize("kinds", [("advance", "see", "score"), ("see",), ("score",)])
def test_a_batch_that_does_not_fit_is_halved_and_said_once(searches, in_pairs, small_memory, kinds):
    wanted = in_pairs
    search = make_search(searches["units"].generator, Linear(direction(2)), exact=False)
    small_memory(3, kinds)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = find(search, "random_linear")
        again = find(search, "random_linear")
    said = [str(w.message) for w in caught if "do not fit" in str(w.message)]
    assert said == [
        "4 branches do not fit in the memory of a device; going on with 2 at once "
        "(micro_batch=2 from the start is faster)"
    ]
    if "advance" in kinds:
        same(found, wanted)
    for a, b in zip(found.candidates, wanted.candidates, strict=True):
        np.testing.assert_allclose(a.frames, b.frames, atol=1e-5)
    assert again.best.path == found.best.path == wanted.best.path
    assert found.ledger["generator"].nfe == wanted.ledger["generator"].nfe


@pytest.mark.parametrize("kind", ["advance", "see", "score"])
@pytest.mark.parametrize("exact", [True, False])
def test_a_branch_that_does_not_fit_alone_is_one_sentence(searches, small_memory, kind, exact):
    search = make_search(searches["units"].generator, Linear(direction(2)), exact=exact)
    small_memory(0, (kind,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SearchFault, match="one branch alone does not fit in the memory"):
            find(search, "random_linear")
