"""Denoiser calls, counted as they happen, beside the ledger, the plan and published formulas."""

from collections import Counter

import jax
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
from tts_jax.search import Budget, SearchConfigError
from tts_jax.search.presets import PRESETS

PROMPT = "a prompt"


class Counted:
    """A search over a generator that counts its own calls, one branch at a time.

    Nothing is compiled for speed, since programs that call the host are never kept for later runs.
    """

    def __init__(self, process, units, blocks, steps, frames=1):
        self.counts = Counter()
        mixture = Mixture.random(frames=frames)
        self.generator = Exact(mixture, process, units, blocks, steps, counts=self.counts)
        reward = Linear(direction(frames * units))
        image = Image(direction(1), name="image")
        self.search = make_search(self.generator, reward, image)

    @property
    def video(self):
        return sum(map(self.generator.nfe, range(self.generator.num_segments)))

    def calls(self):
        """Calls since this was asked last."""
        jax.effects_barrier()
        return self.counts.pop("calls", 0)

    def run(self, chosen, **options):
        self.calls()
        jax.config.update("jax_disable_most_optimizations", True)
        try:
            result = self.search.run(PROMPT, chosen, **options)
        finally:
            jax.config.update("jax_disable_most_optimizations", False)
        return result, self.calls()


@pytest.fixture(scope="module")
def counted():
    return {
        "whole": Counted(Diffusion, 1, 3, 2, frames=2),
        "units": Counted(Flow, 2, 2, 2),
    }


@pytest.mark.parametrize("form", ["whole", "units"])
@pytest.mark.parametrize("name", PRESETS)
def test_the_ledger_holds_the_denoiser_calls_that_were_made(counted, name, form):
    models = counted[form]
    result, calls = models.run(preset(name, models.generator))
    total = result.ledger.total
    assert calls == total.nfe > 0
    assert total.padding_nfe == 0
    own = ("generator", "draft", "look_ahead")
    assert calls == sum(result.ledger[part].nfe for part in own)


@pytest.mark.parametrize("form", ["whole", "units"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_second_passes_with_every_call_and_the_budget_holds(counted, monkeypatch, name, form):
    """The clock stands still but for denoiser calls, which programs not run yet are priced by."""
    models = counted[form]

    def clock():
        return float(models.counts["calls"])

    monkeypatch.setattr("tts_jax.search.programs.time.perf_counter", clock)
    models.search.programs._slowest.clear()
    for seconds in (3 * models.video, 4.6 * models.video):
        result, _ = models.run(
            preset(name, models.generator), budget=Budget(seconds=seconds), seed=1
        )
        assert result.ledger.total.seconds == result.ledger.total.nfe
        assert models.video <= result.ledger.total.seconds <= seconds
        assert len(result.best.frames) == 2


T = 6
WHOLE = {
    "random_linear": (dict(branches=5), 5 * T),
    "beam": (dict(beams=2, children=3, look_ahead=1), 2 * 3 * T),
    "greedy": (dict(chains=3, children=2), 3 * 2 * T),
    "fk_steering": (dict(particles=5), 5 * T),
    "successive_halving": (dict(widths=(4, 2, 1)), 4 * 3 + 2 * 2 + 1),
    "zero_order": (dict(neighbours=3, iterations=2), (1 + 2 * 3) * T),
    "search_over_paths": (dict(samples=2, children=3), None),
    "draft_then_replay": (dict(branches=4, replays=2), 4 * 3 + 2 * T),
    "backtracking": (dict(branches=3, restarts=2, children=2), (3 + 2 * 2) * T),
}


@pytest.mark.parametrize("name", WHOLE)
def test_published_formulas_give_the_calls_of_a_whole_video(counted, name):
    """T is 6 in three segments, of 3, 2 and 1 calls; look-ahead one step is the clean estimate."""
    fields, expected = WHOLE[name]
    if name == "search_over_paths":
        # N start segments, then from segment 1 to the end N * M times: the states that are noised
        # again cost the call that their predictions need, all else T - t.
        expected = 2 * (3 + 2) + 2 * 3 * (T - 2)
    _, calls = counted["whole"].run(preset(name, **fields))
    assert calls == expected


def test_looking_ahead_costs_its_calls_at_every_depth_but_the_last(counted):
    """At depths 1 and 2 of three segments 3 and 1 calls are left to look ahead by."""
    _, calls = counted["whole"].run(preset("beam", beams=2, children=2, look_ahead=3))
    assert calls == 2 * 2 * (T + 3 + 1)
    _, calls = counted["whole"].run(preset("beam", beams=2, children=2, look_ahead=2))
    assert calls == 2 * 2 * (T + 2 + 1)


@pytest.mark.parametrize(("quota", "batch"), [(2, 1), (4, 4), (5, 2)])
def test_rollover_spends_no_more_than_its_quota(counted, quota, batch):
    _, calls = counted["whole"].run(preset("rollover_budget", quota=quota, batch=batch))
    assert T <= calls <= quota * 3 * 3


@pytest.fixture(scope="module")
def fifty():
    """Fifty steps in ten segments."""
    return Counted(Diffusion, 1, 10, 5)


SIZES = 10, 5, 5, 5, 5


@pytest.mark.parametrize("elites", [0, 2])
def test_evolutionary_search_makes_the_published_thousand_calls(fifty, elites):
    """k0 T + sum k_i (T - t_{i-1}) + k_K (T - t_{K-1}) for T 50, t 5 20 30 45, k 10 5 5 5 5.

    An elite goes on from the prediction that its state carries, which saves one call each.
    """
    steps = (5, 20, 30, 45)
    formula = SIZES[0] * 50 + sum(k * (50 - t) for k, t in zip(SIZES[1:], steps, strict=True))
    assert formula == 1000
    chosen = preset(
        "evolutionary", schedule=[t // 5 for t in steps], sizes=SIZES, elites=elites, mutation=0.2
    )
    assert fifty.search.plan(PROMPT, chosen).nfe == formula - 4 * elites
    result, calls = fifty.run(chosen)
    assert calls == result.ledger.total.nfe == formula - 4 * elites
    assert result.ledger["decode"].calls == result.ledger["reward"].calls == sum(SIZES)


def test_a_budget_too_small_for_one_video_is_refused(counted):
    models = counted["whole"]
    with pytest.raises(SearchConfigError, match=f"too small for one video: {T} nfe of {T - 1}"):
        models.search.run(PROMPT, preset("beam"), budget=Budget(nfe=T - 1))
