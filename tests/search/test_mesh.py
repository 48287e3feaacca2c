"""A search whose parameters, its verifiers' included, are divided: the same videos to rounding."""

import jax
import numpy as np

from tts_jax import parallel
from tts_jax.parallel import make_mesh

PROMPT = "a prompt"


def test_divided_parameters_change_no_search_and_uneven_branches_are_filled_up(
    make_search, linear, monkeypatch
):
    monkeypatch.setattr(parallel, "SMALL", 1)
    one = make_search().run(PROMPT, linear(4))
    search = make_search(new=True, mesh=make_mesh(3, 2, 1))
    for leaf in jax.tree.leaves(search.params):
        assert {x.data.size for x in leaf.addressable_shards} == {leaf.size // 2}
    other = search.run(PROMPT, linear(4))
    assert [node.path for node in other.nodes] == [node.path for node in one.nodes]
    for a, b in zip(one.nodes, other.nodes, strict=True):
        for name, score in a.scores.items():
            np.testing.assert_allclose(b.scores[name], score, rtol=1e-5)
        np.testing.assert_allclose(b.frames, a.frames, rtol=1e-5)
    assert other.best.path == one.best.path
    generator = other.ledger["generator"]
    assert generator.calls == 4 * 5  # of four branches on three devices, two more fill a call
    assert generator.padding == 2 * 5 and generator.padding_nfe == 2 * 5 * 6
    again = search.replay(PROMPT, other.best.path)
    np.testing.assert_allclose(again.frames, other.best.frames, rtol=1e-5)
