"""Quality, Semantic and Total against the reference's table and published rows."""

import json

import pytest

from tts_jax.evaluation.vbench.scores import NAMES, QUALITY, SEMANTIC, final_scores


@pytest.fixture(scope="module")
def cases(golden):
    cases = json.loads((golden("vbench") / "final_score.json").read_text())["cases"]
    assert cases
    return cases


def underscored(scores):
    return {name.replace(" ", "_"): value for name, value in scores.items()}


def test_every_case_gives_the_scores_of_the_reference(cases):
    for case in cases:
        found = final_scores(underscored(case["raw"]))
        for name in ("quality", "semantic", "total"):
            assert abs(getattr(found, name) - case[name]) < 1e-9
        wanted = underscored(case["normalised_times_weight"])
        assert found.normalised.keys() == wanted.keys()
        for name, value in wanted.items():
            assert abs(found.normalised[name] - value) < 1e-9


def test_published_rows_give_their_published_scores(cases):
    rows = [case for case in cases if "published" in case]
    assert len(rows) >= 10
    for case in rows:
        found = final_scores(underscored(case["raw"]))
        for name in ("quality", "semantic", "total"):
            assert round(abs(100 * getattr(found, name) - case["published"][name]), 6) <= 0.01


def test_a_missing_dimension_counts_as_raw_zero_and_is_named():
    whole = dict.fromkeys(NAMES, 0.9)
    without = {k: v for k, v in whole.items() if k != "subject_consistency"}
    found = final_scores(without)
    assert found.missing == ("subject_consistency",)
    assert found.normalised["subject_consistency"] < 0
    assert found.total == final_scores({**whole, "subject_consistency": 0.0}).total
    assert final_scores(whole).missing == ()


@pytest.mark.parametrize("name", ["proxy_flow_motion", "motion", "subject consistency"])
def test_what_is_no_dimension_never_enters_a_score(name):
    with pytest.raises(ValueError, match=name):
        final_scores({**dict.fromkeys(NAMES, 0.5), name: 0.5})


def test_each_dimension_belongs_to_one_of_the_two_scores():
    assert len(NAMES) == 16 and (*QUALITY, *SEMANTIC) == NAMES
    low = dict.fromkeys(NAMES, 0.5)
    for name in NAMES:
        one, other = final_scores({**low, name: 0.7}), final_scores(low)
        assert (one.quality > other.quality, one.semantic > other.semantic) == (
            name in QUALITY,
            name in SEMANTIC,
        )
