"""A search on disk is the search in memory, or one clear sentence."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.search import Ledger, Move, Node, Saved, SearchFault
from tts_jax.search import store as store_module
from tts_jax.search.loop import Done
from tts_jax.search.pools import Name
from tts_jax.search.store import RoundStore, StoreError, saves_in

ABOUT = {"prompt": "a red circle", "seed": 3, "config": {"preset": "beam", "widths": (3, 2)}}
MOVED = (2, Move("neighbour", 11, 0, 0.1 + 0.2), Move("renoise", 1, 1, 0.5), 0)


def array(*shape, dtype=np.float32):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


def first_round():
    return Done(
        "",
        [
            Node((0,), (), 0, {"clip": 0.1, "flicker": float("nan")}, -np.inf, True),
            Node((10,), (), 0, {"clip": np.inf}, 1 / 3, frames=array(1, 4, 4, 3)),
        ],
    )


def second_round():
    whole = dict(frames=array(3, 4, 4, 3), latents=array(2, 2, 2, 5, dtype=jnp.bfloat16))
    return Done(
        "top_k(1)",
        [
            Node(MOVED, (2,), 1, {"clip": 1e-30}, 0.0, **whole),
            Node((10, 0), (10,), 1, fidelity="draft"),
        ],
    )


def states(*names):
    """Of branches with keys, counters, parts without elements and half precision."""
    return {
        name: [
            array(5, 3) + i,
            np.arange(32, dtype=np.uint32).reshape(16, 2) + i,
            np.array(i, np.int32),
            np.zeros((0, 3), np.float32),
            array(2, dtype=jnp.bfloat16),
        ]
        for i, name in enumerate(names)
    }


def ledger():
    made = Ledger()
    made["generator"].nfe, made["generator"].seconds = 12, 0.1
    made["decode"].padding = 3
    return made


def one():
    return Saved([first_round()], states(Name("full", (10,))), ledger())


def two():
    names = Name("full", MOVED), Name("draft", (10, 0))
    return Saved([first_round(), second_round()], states(*names), ledger())


def same(found, saved):
    assert repr(found.rounds) == repr(saved.rounds)
    for ours, theirs in zip(found.rounds, saved.rounds, strict=True):
        for node, other in zip(ours.nodes, theirs.nodes, strict=True):
            for name in ("frames", "latents"):
                equal(getattr(node, name), getattr(other, name))
    assert list(found.states) == list(saved.states)
    for name, leaves in saved.states.items():
        for leaf, other in zip(found.states[name], leaves, strict=True):
            equal(leaf, other)
    assert found.ledger == saved.ledger and list(found.ledger) == list(saved.ledger)


def equal(one, other):
    assert (one is None) == (other is None)
    if one is not None:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    store = RoundStore(tmp_path / "a" / "search", ABOUT)
    assert store.load() is None
    for saved in (one(), two()):
        store.save(saved)
        same(RoundStore(store.folder, ABOUT).load(), saved)


def test_another_process_goes_on_saving_where_the_first_was(tmp_path):
    RoundStore(tmp_path, ABOUT).save(one())
    second = RoundStore(tmp_path, ABOUT)
    second.load()
    second.save(two())
    same(RoundStore(tmp_path, ABOUT).load(), two())


def test_frames_are_written_once_and_old_states_go(tmp_path):
    store = RoundStore(tmp_path)
    store.save(one())
    store.save(two())
    assert sorted(p.name for p in (tmp_path / "1" / "arrays").iterdir() if p.is_dir()) == ["videos"]
    last = Saved([first_round(), second_round(), Done("", [Node((1,), (), 2)])], {}, ledger())
    store.save(last)
    assert saves_in(tmp_path) == [1, 2, 3]
    assert not (tmp_path / "3" / "arrays").exists()
    same(RoundStore(tmp_path).load(), last)


def test_a_save_that_was_cut_off_is_not_seen_and_goes(tmp_path):
    store = RoundStore(tmp_path)
    store.save(one())
    (tmp_path / "2.part" / "arrays").mkdir(parents=True)
    same(RoundStore(tmp_path).load(), one())
    store.save(two())
    assert not (tmp_path / "2.part").exists()


@pytest.mark.parametrize(
    ("change", "names"),
    [({"seed": 4}, "seed"), ({"seed": 1, "prompt": "x"}, "prompt, seed"), ({"jax": "9"}, "jax")],
)
def test_another_search_is_not_gone_on_with(tmp_path, change, names):
    RoundStore(tmp_path, ABOUT).save(one())
    with pytest.raises(StoreError, match=f"had another {names}; remove the folder"):
        RoundStore(tmp_path, ABOUT | change).load()


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-9])


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_flip, _truncate, _empty, lambda path: path.unlink()])
@pytest.mark.parametrize("what", ["record.json", "states", "videos"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, damage, what):
    RoundStore(tmp_path, ABOUT).save(two())
    files = [tmp_path / "2" / "record.json"]
    if what != "record.json":
        # All of them: orbax keeps some bytes twice.
        folder = tmp_path / "2" / "arrays" / what
        files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    for path in files:
        damage(path)
    with pytest.raises(StoreError) as caught:
        RoundStore(tmp_path, ABOUT).load()
    message = str(caught.value)
    assert what in message and f"remove {tmp_path} to start this search anew" in message
    assert "\n" not in message


def test_missing_arrays_are_named(tmp_path):
    RoundStore(tmp_path).save(two())
    shutil.rmtree(tmp_path / "2" / "arrays")
    with pytest.raises(StoreError, match="arrays/videos of a saved search is damaged"):
        RoundStore(tmp_path).load()


@pytest.mark.parametrize("place", ["_save_orbax", "json"])
def test_a_full_disk_is_one_sentence_and_the_last_save_stays(tmp_path, monkeypatch, place):
    def full(*_):
        raise OSError(28, "No space left on device")

    store = RoundStore(tmp_path)
    store.save(one())
    with monkeypatch.context() as patch:
        if place == "json":
            patch.setattr(store_module.json, "dumps", full)
        else:
            patch.setattr(store_module, "_save_orbax", full)
        with pytest.raises(SearchFault, match=r"cannot be saved in .*: no space is left") as caught:
            store.save(two())
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    same(RoundStore(tmp_path).load(), one())
    store.save(two())
    same(RoundStore(tmp_path).load(), two())


def test_the_record_is_readable_json(tmp_path):
    RoundStore(tmp_path, ABOUT).save(two())
    record = json.loads((tmp_path / "2" / "record.json").read_text().partition("\n")[2])
    path = record["rounds"][1]["nodes"][0]["path"]
    assert path == [2, "neighbour 11 by 0.30000000000000004", "renoise 1 to 1 by 0.5", 0]
