"""What a plan promises, beside what then happens."""

import pytest

from tests.search.analytic import (
    Diffusion,
    Exact,
    Image,
    Linear,
    Mixture,
    direction,
    make_search,
    preset,
)
from tts_jax.search import Outline, outline_of, plan
from tts_jax.search.plan import bounds
from tts_jax.search.presets import PRESETS

PROMPT = "a prompt"
GENERATOR = Exact(Mixture.random(), Diffusion, 1, 3, 2)
FIFTY = Outline(
    units=(50,),
    nfe=(1,) * 50,
    stochastic=True,
    renoises=True,
    look_ahead=lambda segment, steps: min(steps, 49 - segment),
    draft_nfe=(1, 0) * 25,
)


@pytest.fixture(scope="module")
def search():
    return make_search(GENERATOR, Linear(direction()), Image(direction(1), name="image"))


@pytest.mark.parametrize("name", PRESETS)
def test_the_largest_rounds_hold_what_is_made(search, name):
    """Of any scores: widths, parents and links, by which programs are made."""
    chosen = preset(name, GENERATOR)
    result = search.run(PROMPT, chosen, seed=3)
    most = bounds(chosen, search.outline, seed=3)
    if name not in ("rollover_budget", "backtracking"):
        assert len(result.requests) <= len(most)
    for number, (request, bound) in enumerate(zip(result.requests, most, strict=False)):
        made = [node for node in result.nodes if node.round == number]
        assert len(made) <= bound.width
        assert name == "rollover_budget" or len(request.parents) <= max(bound.parents, 1)


@pytest.mark.parametrize("name", PRESETS)
def test_a_plan_of_ties_is_no_less_than_what_happens(search, name):
    chosen = preset(name, GENERATOR)
    result = search.run(PROMPT, chosen, seed=3)
    total, video = result.ledger.total, sum(search.outline.nfe)
    tied = plan(chosen, search.outline, "tied", seed=3)
    assert tied.nfe >= total.nfe >= video
    assert tied.decodes >= result.ledger["decode"].calls >= 1
    assert tied.advances >= len(search.outline.units)


@pytest.fixture(scope="module")
def together():
    """All branches at once, on two devices, so that there is padding."""
    return make_search(GENERATOR, Linear(direction()), devices=2, exact=False)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("beam", dict(look_ahead=3)),
        ("successive_halving", dict(widths=(7, 3, 1))),
        ("search_over_paths", dict(samples=3)),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_a_plan_on_models_prices_operations_and_makes_nothing(
    search, together, name, fields, batched
):
    """Padding included: in each round as much as the largest round of that index has."""
    models, chosen = together if batched else search, preset(name, **fields)
    before = len(models.programs)
    planned = models.plan(PROMPT, chosen)
    assert len(models.programs) == before
    result = models.run(PROMPT, chosen)
    total = result.ledger.total
    assert planned.nfe == total.nfe and planned.flops == total.flops + total.padding_flops > 0
    assert batched or not total.padding
    assert planned.decodes == result.ledger["decode"].calls
    assert planned.nfe == plan(chosen, outline_of(GENERATOR)).nfe


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("random_linear", dict(branches=64), 64 * 50),
        ("beam", dict(beams=4, children=2, look_ahead=1), 8 * 50),
        # Six steps ahead after each of the first 44, then as many as are left.
        ("beam", dict(beams=4, children=2, look_ahead=6), 8 * (50 + 6 * 44 + 15)),
        ("greedy", dict(chains=2, children=25, every=2), 50 * 50),
        ("fk_steering", dict(particles=4, depths=(5, 10, 15, 20, 25, 30)), 4 * 50),
        ("evolutionary", dict(schedule=(5, 20, 30, 45), sizes=(10, 5, 5, 5, 5)), 1000),
        ("evolutionary", dict(schedule=(5, 20, 30, 40), sizes=(14, 7, 7, 7, 10)), 1465),
        ("evolutionary", dict(schedule=(0, 20, 30, 40), sizes=(42, 26, 26, 26, 30)), 5000),
        ("zero_order", dict(neighbours=2, iterations=4), 9 * 50),
        ("draft_then_replay", dict(branches=8), 8 * 25 + 50),
    ],
)
def test_published_sizes_cost_their_formulas_at_fifty_steps(name, fields, expected):
    """Where the parent's prediction is carried; going back to a state costs nothing here."""
    assert plan(preset(name, **fields), FIFTY).nfe == expected


def test_rollover_plans_its_whole_quota_where_nothing_improves():
    ten = Outline(units=(10,), nfe=(1,) * 10, stochastic=True)
    chosen = preset("rollover_budget", quota=50, batch=10)
    assert plan(chosen, ten, "tied").nfe == 500


def test_moves_of_moves_are_foreseen():
    """Twenty iterations that all improve need twenty links, though other scores need none."""
    chosen = preset("zero_order", neighbours=2, iterations=20)
    assert max(r.links for r in bounds(chosen, FIFTY)) == 20
    assert max(r.links for r in plan(chosen, FIFTY).rounds) == 1


def test_uneven_forks_are_laid_out_by_the_branches_they_make(together):
    """Resampling gives few particles many children; calls have no room for all of all."""
    chosen = preset("fk_steering", particles=16, tilt=3.0, resample_below=1.0)
    result = together.run(PROMPT, chosen)
    generator = result.ledger["generator"]
    assert generator.calls == 16 * 3
    assert generator.padding <= generator.calls
