"""No search spends more than its budget, and each makes a video of whatever it is given.

Budgets in seconds are tested in `test_theory_costs`, where a clock counts denoiser calls.
"""

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
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
from tts_jax.search import Budget, Outline, SearchConfigError, outline_of, plan
from tts_jax.search.budget import spending
from tts_jax.search.plan import Scores
from tts_jax.search.presets import PRESETS

PROMPT = "a prompt"
FORMS = {
    "whole": Exact(Mixture.random(), Diffusion, 1, 3, 2),
    "units": Exact(Mixture.random(frames=1), Flow, 3, 2, 2),
}
OUTLINES = {name: outline_of(generator) for name, generator in FORMS.items()}
# What these ask for does not depend on scores.
STEADY = (
    "random_linear",
    "tree_of_frames",
    "beam",
    "greedy",
    "successive_halving",
    "draft_then_replay",
    "search_over_paths",
)
cheap = settings(max_examples=30, derandomize=True, deadline=None)


@pytest.fixture(scope="module")
def models():
    searches = {}
    for name, generator in FORMS.items():
        frames = 2 if name == "whole" else 3
        verifiers = Linear(direction(frames)), Image(direction(1), name="image")
        searches[name] = make_search(generator, *verifiers)
    return searches


def video(form):
    return sum(OUTLINES[form].nfe)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_no_plan_exceeds_its_denoiser_calls(name, form):
    """With more calls it does no less, until it is not cut at all."""
    chosen = preset(name, FORMS[form])

    @cheap
    @given(
        extra=st.integers(0, 40 * video(form)),
        scores=st.sampled_from(get_args(Scores)),
        seed=st.integers(0, 9),
    )
    def check(extra, scores, seed):
        nfe = video(form) + extra
        found = plan(chosen, OUTLINES[form], scores, budget=Budget(nfe=nfe), seed=seed)
        assert video(form) <= found.nfe <= nfe
        free = plan(chosen, OUTLINES[form], scores, seed=seed)
        if not found.cut:
            assert found.nfe == free.nfe
        assert found.cut or free.nfe <= nfe
        assert not (found.cut and free.nfe + video(form) <= nfe)

    check()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_no_search_exceeds_its_denoiser_calls(models, name, form):
    chosen = preset(name, FORMS[form])
    for nfe in (video(form), 2 * video(form) + 1, 7 * video(form) // 2):
        result = models[form].run(PROMPT, chosen, budget=Budget(nfe=nfe), seed=nfe)
        assert video(form) <= result.ledger.total.nfe <= nfe
        assert result.best.path in {node.path for node in result.candidates}
        if name in STEADY:
            assert plan(chosen, OUTLINES[form], budget=Budget(nfe=nfe)).nfe == (
                result.ledger.total.nfe
            )


@pytest.mark.parametrize("name", PRESETS)
def test_no_search_exceeds_its_operations(models, name):
    """Chains of keys take some; there is no padding."""
    search, chosen = models["whole"], preset(name, FORMS["whole"])
    alone = search.run(PROMPT, chosen, budget=Budget(nfe=video("whole"))).ledger.total
    assert alone.flops > 0
    for flops in (alone.flops, 2.7 * alone.flops):
        result = search.run(PROMPT, chosen, budget=Budget(flops=flops))
        spent = spending(result.ledger.total).flops
        assert alone.flops <= spent <= flops
        planned = search.plan(PROMPT, chosen, Budget(flops=flops))
        assert planned.flops <= flops
        if name in STEADY:
            assert planned.flops == spent and planned.cut == result.cut


def test_more_budget_never_makes_the_incumbent_worse(models):
    best = []
    for videos in range(1, 12):
        budget = Budget(nfe=videos * video("units") + 2)
        result = models["units"].run(PROMPT, preset("random_linear", branches=9), budget=budget)
        assert len(result.candidates) == min(videos, 9) and result.cut == (videos < 9)
        best.append(result.incumbents[-1])
    for few, more in pairwise(best):
        if few.path != more.path:
            assert more.path > few.path
            assert any(more.scores[name] > few.scores[name] for name in more.scores)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("form", FORMS)
def test_a_budget_too_small_for_one_video_is_refused_in_one_sentence(models, name, form):
    message = f"too small for one video: {video(form)} nfe of {video(form) - 1}"
    with pytest.raises(SearchConfigError, match=message):
        models[form].run(PROMPT, preset(name, FORMS[form]), budget=Budget(nfe=video(form) - 1))
    with pytest.raises(SearchConfigError, match="too small for one video"):
        models[form].run(PROMPT, preset(name, FORMS[form]), budget=Budget(flops=1))
    with pytest.raises(SearchConfigError, match="the least: no limit"):
        Budget(nfe=-1)


def test_a_cut_search_still_finishes_its_best_branch(models):
    """Two beams of which only one can be finished: the better one by its clean estimate."""
    chosen = preset("beam", beams=2, children=2, look_ahead=1)
    # Four first segments of three calls, and what is left of one video.
    budget = Budget(nfe=4 * 3 + video("whole") - 3)
    result = models["whole"].run(PROMPT, chosen, budget=budget)
    assert result.cut and len(result.candidates) == 1
    first = [node for node in result.nodes if node.round == 0]
    better = max(first, key=lambda node: node.value)
    assert len(first) == 4 and result.best.path[:1] == better.path
    assert result.ledger.total.nfe == budget.nfe


def test_limits_hold_together():
    outline = Outline(units=(4,), nfe=(5,) * 4)
    chosen = preset("random_linear", branches=9)
    assert plan(chosen, outline, budget=Budget(nfe=100, flops=1e9, seconds=60)).nfe == 100
    assert plan(chosen, outline, budget=Budget()).nfe == 180
