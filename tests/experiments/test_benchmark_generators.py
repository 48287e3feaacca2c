"""The benchmark of the networks runs each of them beside its original, and counts what it says."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import benchmark_generators as benchmark
from tts_jax.checkpoints import abstract_params
from tts_jax.nn.tiling import in_tiles


def run(*arguments):
    return benchmark.cli.run(
        benchmark.main, benchmark.define, benchmark.__doc__, ["benchmark", *arguments]
    )


@pytest.fixture(autouse=True)
def all_threads(monkeypatch):
    """Leaves this process its threads and cores."""
    monkeypatch.setattr(benchmark, "_use_threads", lambda count: None)


def test_every_network_computes_what_its_original_does(tmp_path, capsys):
    path = tmp_path / "figures.json"
    flags = "--size=tiny", "--repetitions=1", "--nocompilation", "--nomemory"
    assert run(*flags, f"--output={path}") == 0
    speed = json.loads(path.read_text())["speed"]
    assert set(speed) == set(benchmark.NETWORKS)
    alone = {name for name, sizes in speed.items() if "original" not in sizes["tiny"]}
    halves = "encode", "decode"
    vaes = {f"{n}_vae_{half}" for n in ("pyramid_flow", "open_sora") for half in halves}
    assert alone == {"open_sora"} | vaes
    for name in set(speed) - alone:
        found = speed[name]["tiny"]
        assert found["error"] <= 1e-4, name
        ratio = found["ours"]["least"] / found["original"]["least"]
        assert found["ratio"] == pytest.approx(ratio)
    assert "cogvideox_5b" in capsys.readouterr().out


def test_compilations_are_of_as_many_layers_as_asked(tmp_path, capsys):
    path = tmp_path / "figures.json"
    flags = "--network=clip_text", "--layers=1,3", "--repetitions=1", "--nospeed", "--nomemory"
    assert run(*flags, f"--output={path}") == 0
    found = json.loads(path.read_text())["compilation"]
    assert list(found) == ["clip_text"] and list(found["clip_text"]) == ["1", "3"]
    assert min(found["clip_text"].values()) > 0
    two, four, six = (benchmark.layered(layers) for layers in (2, 4, 6))
    for name, network in four.items():
        assert two[name].parameters < network.parameters
        assert (
            network.parameters - two[name].parameters == six[name].parameters - network.parameters
        )
    assert jax.config.jax_enable_compilation_cache


def test_memory_is_what_lies_between_argument_and_result():
    class Wide(nnx.Module):
        def __init__(self, config, *, rngs):
            pass

        def __call__(self, x):
            return jnp.tanh(jnp.repeat(x, 64, axis=-1)) @ jnp.ones((64, 1))

    graph, params = abstract_params(Wide, None)
    x = jax.ShapeDtypeStruct((1, 1, 256, 256, 1), jnp.float32)

    def tiled(model, x):
        sizes = {name: (32, 32) for name in ("stride", "keep")}
        return in_tiles(model, x, (32, 32), **sizes, blend=(0, 0))

    calls = {"whole": lambda model, x: model(x), "tiled": tiled}
    networks = {n: benchmark.Network(graph, params, call, (x,)) for n, call in calls.items()}
    found = benchmark.measure_memory(networks)
    whole = 4 * 64 * int(np.prod(x.shape))
    assert found["whole"] >= whole / 2 and found["tiled"] < found["whole"]


def test_decoders_are_those_of_published_videos():
    networks = benchmark.decoders()
    assert networks["pyramid_flow, whole"].inputs[0].shape == (1, 16, 48, 80, 16)
    assert networks["cogvideox, windows of 2"].inputs[0].shape == (1, 13, 60, 90, 16)
    assert {network.parameters for network in networks.values()} == {
        networks["pyramid_flow, whole"].parameters,
        networks["cogvideox, windows of 2"].parameters,
    }
