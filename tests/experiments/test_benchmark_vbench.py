"""The benchmark of VBench measures what it says, with small networks and with stand-ins."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import benchmark_vbench as benchmark
from tts_jax.evaluation.vbench import networks as published
from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, Network
from tts_jax.verifiers import load_verifier
from tts_jax.vision.dino import DINOConfig
from tts_jax.vision.vit import VisionConfig

VIT = dict(size=32, patch=16, width=16, heads=2, layers=2, mlp=32)


@pytest.mark.parametrize(
    ("measure", "config"),
    [
        (benchmark.measure_clip, VisionConfig(projection=8, **VIT)),
        (benchmark.measure_dino, DINOConfig(**VIT)),
    ],
)
def test_towers_are_compared_with_the_package_on_the_same_weights(measure, config):
    ours, theirs, difference = measure(config, 3, 1)
    assert 0 < ours.seconds and 0 < theirs.seconds
    assert difference < 1e-4


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    sizes = benchmark._sizes()
    return benchmark.write_networks(tmp_path_factory.mktemp("networks") / "all", sizes), sizes


def test_every_network_has_a_smaller_one_that_loads_in_its_place(written, monkeypatch):
    folders, sizes = written
    assert set(folders) == set(published.LOADERS)
    for name, config in sizes.items():
        assert config != published.PUBLISHED[name]
        monkeypatch.setitem(published.PUBLISHED, name, config)
    loaded = published.load_networks(folders)
    assert set(loaded) == {n for d in DIMENSIONS.values() for n in d.networks}


def test_its_texts_are_in_the_vocabulary_of_its_networks(written):
    for network, verifier in benchmark.VERIFIERS.items():
        tokenizer = load_verifier(verifier, written[0][network])[0].tokenizer
        ids, _ = tokenizer.tokenize([benchmark.PROMPT, benchmark.STYLE])
        assert len(np.unique(ids[0])) > 6


def mean(x):
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def test_all_dimensions_together_score_as_one_at_a_time(tmp_path, monkeypatch):
    fake = {
        "dino": Network(mean, 32),
        "clip_b32": Network(mean, 32),
        "aesthetic": Network(lambda x: mean(x).sum(-1), 32),
        "viclip": Network(lambda x: mean(x) @ jnp.eye(3), 32),
        "musiq": Network(lambda x: mean(x)[:, 0]),
        "raft": Network(lambda first, second: abs(first - second)[..., :2]),
        "amt": Network(lambda first, last: (first + last) / 2),
        "umt": Network(lambda x: mean(x)[:, :2], 32, labels=(benchmark.ACTION, "other")),
    }
    for name in ("clip_b32_text", "viclip_text"):
        fake[name] = Network(lambda texts: np.tile([1.0, 0.5, 0.2], (len(texts), 1)))
    monkeypatch.setattr(published, "load_networks", lambda folders: fake)
    benchmark.write_clips(tmp_path / "videos", 2, 4, 128)
    times, operations, difference = benchmark.measure({}, tmp_path / "videos", {}, 1)
    assert difference == 0 and len(times) == 3
    assert operations["together"] == 2 * 2 * 3 * 3  # two videos through the one product
    assert operations["one dimension at a time"] == 2 * operations["together"]
    assert all(taken.seconds > 0 for taken in times.values())
    broken = dataclasses.replace(fake["musiq"], call=lambda x: np.full(len(x), np.nan))
    fake["musiq"] = broken
    with pytest.raises(benchmark.cli.RunFault, match="imaging_quality is not a number"):
        benchmark.measure({}, tmp_path / "videos", {}, 1)


def test_a_run_is_given_the_networks_of_its_dimensions_only():
    folders = dict.fromkeys(published.LOADERS, "folder")
    assert list(benchmark.needed(["appearance_style"], folders)) == ["clip_b32"]
    assert set(benchmark.needed(benchmark.ASKING, folders)) == set(published.LOADERS)
