"""Checkpoints as networks of dimensions: they say what the models they hold say."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tts_jax.checkpoints import abstract_params, init_params, save_safetensors
from tts_jax.evaluation.vbench import inputs, networks
from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, Video, ask, flow_between
from tts_jax.evaluation.vbench.rules import motion_smoothness, subject_consistency
from tts_jax.verifiers import EMBEDDED, load_verifier, save_verifier
from tts_jax.verifiers.aesthetic import Aesthetic, AestheticConfig, HeadConfig
from tts_jax.verifiers.clip import CLIP
from tts_jax.verifiers.viclip import ViClipVerifier
from tts_jax.vision.amt import AMT, AMTConfig
from tts_jax.vision.dino import DINO, DINOConfig
from tts_jax.vision.musiq import MUSIQ, MUSIQConfig
from tts_jax.vision.raft import RAFT, RAFTConfig
from tts_jax.vision.umt import UMT, UMTConfig

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def video():
    frames = np.random.default_rng(0).integers(0, 256, (9, 40, 48, 3), dtype=np.uint8)
    return Video("clip", frames, 8.0, PROMPT, {"appearance_style": {"appearance_style": PROMPT}})


@pytest.fixture
def allow(monkeypatch):
    """`allow(name, verifier)`: takes a small verifier's tower for the published one."""
    return lambda name, verifier: monkeypatch.setitem(
        networks.PUBLISHED, name, verifier.config.vision
    )


def test_clip_gives_the_cosines_that_the_verifier_gives(video, allow):
    allow("clip_b32", load_verifier("clip", EMBEDDED)[0])
    loaded = networks.load_networks({"clip_b32": EMBEDDED})
    verifier, params = load_verifier("clip", EMBEDDED)
    size = verifier.config.vision.size
    square = Video("clip", video.frames[:1, :size, :size], 8.0, PROMPT, video.info)
    found = DIMENSIONS["appearance_style"](square, loaded)
    query = verifier.prepare(params, [PROMPT])[0]
    frames = jnp.asarray(square.frames[None] / np.float32(255))
    logit = float(verifier.score(params, frames, query)[0])
    assert found.total == pytest.approx(logit / float(jnp.exp(params["logit_scale"])), abs=1e-5)
    assert DIMENSIONS["background_consistency"](video, loaded).count == 8


@pytest.fixture(scope="module")
def save_viclip():
    """`save_viclip(folder, frames)`: a random ViCLIP of the embedded one's size, and itself."""
    embedded, _ = load_verifier("viclip", EMBEDDED)

    def save(folder, frames):
        vision = dataclasses.replace(embedded.config.vision, frames=frames)
        config = dataclasses.replace(embedded.config, vision=vision, stride=None, quantise=True)
        verifier = ViClipVerifier(config, embedded.tokenizer)
        save_verifier(folder, verifier, init_params(CLIP, config)[1])
        shutil.copy(EMBEDDED / "tokenizer.json", folder)

    return save


def test_viclip_gives_the_cosine_of_eight_frames(video, allow, save_viclip, tmp_path):
    save_viclip(tmp_path, 8)
    verifier, params = load_verifier("viclip", tmp_path)
    allow("viclip", verifier)
    found = DIMENSIONS["overall_consistency"](video, networks.load_networks({"viclip": tmp_path}))
    frames = jnp.asarray(video.frames[None] / np.float32(255))
    logit = verifier.score(params, frames, verifier.prepare(params, [PROMPT])[0])
    wanted = float(logit[0]) / float(jnp.exp(params["logit_scale"]))
    assert found.total == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ["clip_b32", "viclip"])
def test_another_network_than_the_published_one_is_refused(name):
    with pytest.raises(ValueError, match=f"another network than the {name} of VBench"):
        networks.load_networks({name: EMBEDDED})


def test_the_aesthetic_quality_is_a_tenth_of_the_mean_prediction(video, allow, tmp_path):
    vision = load_verifier("clip", EMBEDDED)[0].config.vision
    config = AestheticConfig(vision=vision, head=HeadConfig(inputs=vision.projection))
    graph, params = init_params(Aesthetic, config)
    for part in ("vision", "head"):
        save_safetensors(tmp_path / f"{part}.safetensors", params[part], np.float32)
    fields = {"verifiers": {"aesthetic": dataclasses.asdict(config)}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    allow("aesthetic", load_verifier("aesthetic", tmp_path)[0])
    loaded = networks.load_networks({"aesthetic": tmp_path})
    found = DIMENSIONS["aesthetic_quality"](video, loaded)
    pixels = inputs.clip_frames(video.frames, vision.size)
    wanted = nnx.merge(graph, params)(jnp.asarray(pixels)).mean() / 10
    assert found.total == pytest.approx(float(wanted), abs=1e-6)


def test_dino_gives_the_similarity_of_its_class_tokens(video, monkeypatch, tmp_path):
    config = DINOConfig(size=32, patch=8, width=16, heads=2, layers=1, mlp=32)
    monkeypatch.setitem(networks.PUBLISHED, "dino", config)
    graph, params = init_params(DINO, config)
    save_safetensors(tmp_path / "dino_vitb16.safetensors", params, np.float32)
    loaded = networks.load_networks({"dino": tmp_path})
    tokens = nnx.merge(graph, params)(jnp.asarray(inputs.dino_input(video.frames, 32)))
    wanted = subject_consistency(np.asarray(tokens)).total
    assert DIMENSIONS["subject_consistency"](video, loaded).total == pytest.approx(wanted, abs=1e-4)


@pytest.fixture(scope="module")
def large():
    """Three frames that flow networks take."""
    frames = np.random.default_rng(1).integers(0, 256, (3, 130, 136, 3), dtype=np.uint8)
    return Video("large", frames, 8.0, PROMPT)


def blank(model, config):
    """Parameters that are all zero."""
    like = abstract_params(model, config)[1]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), like)


RAFT_TINY = RAFTConfig(
    stages=(2, 2, 2), features=2, hidden=2, context=2, levels=4, radius=1, correlation=(2, 2),
    motion=(2, 2), joined=4, head=2, iterations=2,
)  # fmt: skip


def test_raft_gives_the_flow_that_the_dynamic_degree_measures(large, monkeypatch, tmp_path):
    monkeypatch.setitem(networks.PUBLISHED, "raft", RAFT_TINY)
    params = blank(RAFT, RAFT_TINY)
    params["flow"]["conv2"]["bias"] += np.asarray([0.25, -0.5])  # cells in each of two refinements
    save_safetensors(tmp_path / "raft_things.safetensors", params, np.float32)
    loaded = networks.load_networks({"raft": tmp_path})
    flow = ask(flow_between(large, [(0, 1), (1, 2)]), large, loaded)
    assert flow.shape == (2, 136, 136, 2)
    np.testing.assert_allclose(flow[:, 8:-8, 8:-8], np.broadcast_to([4, -8], (2, 120, 120, 2)))
    assert DIMENSIONS["dynamic_degree"](large, loaded).total == 1


MUSIQ_TINY = MUSIQConfig(
    patch=8, sides=(16,), grid=2, stem=4, groups=2, width=8, heads=2, layers=1, mlp=8
)


def test_musiq_scores_frames_that_flow_networks_refuse(video, monkeypatch, tmp_path):
    monkeypatch.setitem(networks.PUBLISHED, "musiq", MUSIQ_TINY)
    params = blank(MUSIQ, MUSIQ_TINY)
    params["head"]["bias"] += 73
    save_safetensors(tmp_path / "musiq_spaq.safetensors", params, np.float32)
    loaded = networks.load_networks({"musiq": tmp_path})
    assert DIMENSIONS["imaging_quality"](video, loaded).total == pytest.approx(0.73)


AMT_TINY = AMTConfig(
    stages=(4, 4, 4), features=2, levels=4, radius=1, pyramid=(2, 2, 2, 2), side=1, correlation=2,
    motion=2, joined=2, hidden=2, flows=2, combine=2,
)  # fmt: skip


def test_amt_gives_the_frames_that_motion_smoothness_compares_with(large, monkeypatch, tmp_path):
    monkeypatch.setitem(networks.PUBLISHED, "amt", AMT_TINY)
    params = blank(AMT, AMT_TINY)  # no flow, both frames alike, and what this adds
    params["combine"][1]["bias"] += np.float32(0.125)
    save_safetensors(tmp_path / "amt_s.safetensors", params, np.float32)
    loaded = networks.load_networks({"amt": tmp_path})
    first, last = large.frames[::2].astype(np.float32) / 255
    wanted = motion_smoothness(large.frames, np.minimum((first + last) / 2 + 0.125, 1)[None])
    found = DIMENSIONS["motion_smoothness"](large, loaded)
    assert found.total == pytest.approx(wanted.total, abs=1e-5)


UMT_TINY = UMTConfig(size=32, patch=16, frames=16, width=16, heads=2, layers=1, mlp=32, classes=4)


def test_umt_names_the_action_that_it_finds(video, monkeypatch, tmp_path):
    monkeypatch.setitem(networks.PUBLISHED, "umt", UMT_TINY)
    _, params = init_params(UMT, UMT_TINY)
    params["head"]["bias"] = jnp.asarray([-9.0, -9.0, 9.0, -9.0])
    save_safetensors(tmp_path / "umt_l16_k400.safetensors", params, np.float32)
    for names, right in ((["a", "b", "riding a bike", "c"], 1), (["riding a bike", *"abc"], 0)):
        (tmp_path / "labels.json").write_text(json.dumps(names))
        loaded = networks.load_networks({"umt": tmp_path})
        rider = dataclasses.replace(video, prompt="A person is riding a bike")
        assert DIMENSIONS["human_action"](rider, loaded).total == right


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[1]", "list of names"),
        ("[]", "0 names"),
    ],
)
def test_umt_without_the_names_of_its_classes_is_refused(tmp_path, labels, message):
    if labels is not None:
        (tmp_path / "labels.json").write_text(labels)
    with pytest.raises(ValueError, match=message):
        networks.load_networks({"umt": tmp_path})


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="no network 'proxy_naturalness' can be loaded"):
        networks.load_networks({"proxy_naturalness": EMBEDDED})
