"""Programs kept in a folder: a later process runs them as they are, or says why it cannot."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from tests.search.analytic import Exact, Flow, Linear, Mixture, direction, make_search, preset
from tts_jax.parallel import DeviceByDevice, branch_mesh, over_branches, replicate, split
from tts_jax.search.executables import Executables, surroundings
from tts_jax.search.ledger import Cost
from tts_jax.search.programs import Programs

HERE = {"versions": "jax 1", "devices": "cpu 0", "checkpoints": "a"}


def scale(factor, branches):
    return {"scaled": branches @ factor["by"], "none": branches[:, :0]}


def refuse():
    raise AssertionError("this would be traced")


KINDS = {
    "one device": (1, lambda mesh: scale),
    "divided": (4, lambda mesh: over_branches(scale, mesh, shared=1)),
    "device by device": (2, lambda mesh: DeviceByDevice(scale, mesh, shared=1)),
}


@pytest.fixture(params=KINDS)
def program(request):
    """A mesh, what builds a function on it, and its arguments."""
    devices, build = KINDS[request.param]
    mesh = branch_mesh(devices)
    args = (
        replicate({"by": 3 * np.eye(5, dtype=np.float32)}, mesh),
        split(np.ones((4, 5), np.float32), mesh),
    )
    return mesh, lambda: build(mesh), args


def open_folder(folder, mesh, **changes):
    return Programs(Executables(folder, mesh, HERE | changes))


def kept(folder):
    return sorted(folder.glob("*/*.bin"))


def test_a_later_process_neither_compiles_nor_traces(program, tmp_path):
    mesh, build, args = program
    first, second = open_folder(tmp_path, mesh), open_folder(tmp_path, mesh)
    costs = Cost(), Cost(), Cost()
    wanted = first(costs[0], "scale", build, *args, live=4, nfe=1)
    found = second(costs[1], "scale", refuse, *args, live=4, nfe=1)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert found["scaled"].sharding.is_equivalent_to(wanted["scaled"].sharding, 2)
    assert (costs[0].compilations, costs[1].compilations) == (1, 0)
    assert costs[0].flops == costs[1].flops > 0
    priced = open_folder(tmp_path, mesh).price(costs[2], "scale", refuse, *args, live=4, nfe=1)
    assert costs[2].flops == costs[0].flops
    assert jax.tree.map(jnp.shape, priced) == jax.tree.map(jnp.shape, wanted)
    assert second.built[0].kept and not first.built[0].kept


def test_other_names_shapes_and_structures_are_other_programs(tmp_path):
    mesh = branch_mesh(1)
    programs = open_folder(tmp_path, mesh)

    def run(key, factor, rows):
        def function(factor, x):
            return jax.tree.leaves(factor)[0] * x

        return programs(Cost(), key, lambda: function, factor, jnp.ones((rows, 2)))

    for key, factor, rows in (
        ("a", {"by": jnp.float32(1)}, 1),
        ("b", {"by": jnp.float32(1)}, 1),
        ("a", {"by": jnp.float32(1)}, 2),
    ):
        run(key, factor, rows)
    assert len(kept(tmp_path)) == 3
    programs = open_folder(tmp_path, mesh)
    run("a", [jnp.float32(1)], 1)
    assert len(kept(tmp_path)) == 4


def one_warning(act):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        result = act()
    (sentence,) = [str(w.message) for w in found if "executable" in str(w.message)]
    assert "\n" not in sentence
    return sentence, result


def test_other_surroundings_are_told_and_compiled_for(tmp_path):
    mesh = branch_mesh(1)
    args = {"by": 2 * jnp.eye(2)}, jnp.ones((3, 2))
    open_folder(tmp_path, mesh)(Cost(), "scale", lambda: scale, *args)
    changes = {"versions": "jax 2", "checkpoints": "b"}
    sentence, programs = one_warning(lambda: open_folder(tmp_path, mesh, **changes))
    assert "other versions (jax 1, now jax 2), checkpoints; compiling again" in sentence
    cost = Cost()
    programs(cost, "scale", lambda: scale, *args)
    assert cost.compilations == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for own in ({}, changes):  # both are kept now
            open_folder(tmp_path, mesh, **own)(cost, "scale", refuse, *args)


def test_a_damaged_file_is_told_and_mended(tmp_path):
    mesh = branch_mesh(1)
    args = {"by": 2 * jnp.eye(2)}, jnp.ones((3, 2))
    open_folder(tmp_path, mesh)(Cost(), "scale", lambda: scale, *args)
    (path,) = kept(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    run = open_folder(tmp_path, mesh)
    sentence, found = one_warning(lambda: run(Cost(), "scale", lambda: scale, *args))
    assert str(path) in sentence and "cannot be read" in sentence
    np.testing.assert_array_equal(found["scaled"], 2 * np.ones((3, 2)))
    open_folder(tmp_path, mesh)(Cost(), "scale", refuse, *args)


def test_arguments_on_other_devices_are_told_and_compiled_for(tmp_path):
    mesh = branch_mesh(2)
    here, there = mesh.devices.flat
    args = {"by": 2 * jnp.eye(2)}, jnp.ones((3, 2))
    open_folder(tmp_path, mesh)(Cost(), "scale", lambda: scale, *jax.device_put(args, here))
    programs, cost = open_folder(tmp_path, mesh), Cost()
    moved = jax.device_put(args, there)
    sentence, found = one_warning(lambda: programs(cost, "scale", lambda: scale, *moved))
    assert "takes other arguments" in sentence and cost.compilations == 1
    assert found["scaled"].devices() == {there}
    assert not programs.built[0].kept and len(programs) == 1


def test_a_whole_search_is_taken_from_a_folder(tmp_path):
    def search():
        generator = Exact(Mixture.random(frames=2), Flow, 2, 2, 2)
        made = make_search(generator, Linear(direction(4)))
        folder = Executables(tmp_path, made.mesh, surroundings({"exact": None}, made.mesh))
        made.programs = Programs(folder)
        return made.run("a prompt", preset("random_linear", generator, branches=3))

    first, second = search(), search()
    assert first.ledger.total.compilations > 3 and second.ledger.total.compilations == 0
    assert second.ledger.total.flops == first.ledger.total.flops
    for one, other in zip(first.candidates, second.candidates, strict=True):
        assert one.scores == other.scores
        np.testing.assert_array_equal(one.frames, other.frames)


def test_surroundings_tell_what_programs_are_made_of(tmp_path, monkeypatch):
    mesh, folder = branch_mesh(2), tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    settings = {"generator": {"checkpoint": str(folder), "guidance": 2.0}}

    def changed(settings=settings, mesh=mesh):
        found = surroundings(settings, mesh)
        return {name for name in before if found[name] != before[name]}

    before = surroundings(settings, mesh)
    assert changed() == set()
    json.dumps(before)
    other = {"generator": {"checkpoint": str(folder), "guidance": 3.0}}
    assert changed(settings=other) == {"settings of the models"}
    assert changed(mesh=branch_mesh(4)) == {"devices", "mesh"}
    assert changed(mesh=Mesh(mesh.devices[::-1], mesh.axis_names)) == {"devices"}
    with jax.default_matmul_precision("bfloat16"):
        assert changed() == {"settings of jax"}
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert changed() == {"settings of jax"}
    monkeypatch.undo()
    (folder / "config.json").write_text('{"layers": 3}')
    assert changed() == {"checkpoints"}
