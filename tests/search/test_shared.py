"""Searches that begin alike: what the first has made is not made again, and changes nothing."""

import numpy as np
import pytest

from tts_jax.search import SearchConfigError
from tts_jax.search.ledger import UNREPEATABLE
from tts_jax.search.shared import SharedRounds
from tts_jax.verifiers.panel import Panel

PROMPT = "some prompt"
WIDE = ((6, 2, 2, 1, 1), dict(image_keep=3, judge_depths=(2,), keep=(3,)))
SAME_START = ((6, 2, 1, 1, 1), dict(image_keep=3, judge_depths=(2,), keep=(2,)))
NARROW = ((4, 1, 2, 1, 1), dict(image_keep=2, judge_depths=(2,), keep=(1,)))


def costs(result):
    """The cost but for what differs between runs, and for moving branches about."""
    whole = result.ledger.to_json(repeatable=True)
    return {name: row for name, row in whole.items() if name not in ("search", "total")}


def outcome(result):
    return [(n.path, n.parent, n.round, n.scores, n.value) for n in result.nodes]


@pytest.fixture
def shared(make_search, monkeypatch):
    search = make_search()
    grown = []
    programs = type(search.programs)
    call = programs.__call__

    def counted(self, cost, key, build, *args, nfe=0, live=0, **work):
        grown.append(nfe * live)
        return call(self, cost, key, build, *args, nfe=nfe, live=live, **work)

    monkeypatch.setattr(programs, "__call__", counted)
    return search, SharedRounds(search, PROMPT, seed=3), grown


def test_trees_that_begin_alike_share_rounds_and_cost_what_they_cost_alone(shared, tree):
    search, rounds, grown = shared
    for number, (branching, fields) in enumerate((WIDE, SAME_START, NARROW)):
        preset = tree(branching, **fields)
        grown.clear()
        together = rounds.run(preset)
        made = sum(grown)
        alone = search.run(PROMPT, preset, seed=3)
        assert outcome(together) == outcome(alone)
        np.testing.assert_array_equal(together.best.frames, alone.best.frames)
        assert costs(together) == costs(alone)
        nfe = alone.ledger["generator"].nfe
        assert made == nfe if number == 0 else made < nfe
        assert together.ledger.total.seconds > 0
    assert rounds.taken == 4
    assert set(UNREPEATABLE) <= vars(together.ledger.total).keys()


def test_a_wider_search_makes_its_own_rounds(shared, tree):
    search, rounds, _ = shared
    rounds.run(tree(NARROW[0], **NARROW[1]))
    wide = tree(WIDE[0], **WIDE[1])
    assert outcome(rounds.run(wide)) == outcome(search.run(PROMPT, wide, seed=3))
    assert rounds.taken == 0


def test_another_panel_judges_the_same_videos_by_the_same_programs(make_search, linear):
    search = make_search()
    before = search.run(PROMPT, linear(6))
    compiled = len(search.programs)
    panel = Panel(search.panel.verifiers, [0.0, 1.0], held_out=("first",))
    after = search.judged_by(panel).run(PROMPT, linear(6))
    assert [n.scores for n in before.nodes] == [n.scores for n in after.nodes]
    best = max(after.nodes, key=lambda n: n.scores["all"])
    assert after.best.path == best.path
    assert len(search.programs) <= compiled + 1
    with pytest.raises(SearchConfigError, match="cannot take the place"):
        search.judged_by(Panel(search.panel.verifiers[:1]))
