"""VBench's dimensions as verifiers: the scores of the evaluation, inside of a search's programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, models
from tests.evaluation.vbench.test_networks import MUSIQ_TINY, blank
from tests.search.analytic import Exact, Flow, Mixture
from tts_jax.checkpoints import CheckpointError, save_safetensors
from tts_jax.evaluation.vbench import networks
from tts_jax.evaluation.vbench.dimensions import DIMENSIONS, Network, Video
from tts_jax.evaluation.vbench.verifier import NAMES, PREFIX, DimensionVerifier, Lifted
from tts_jax.parallel import make_mesh
from tts_jax.search import Search, SearchFault, load_preset
from tts_jax.verifiers import load_verifier
from tts_jax.verifiers.panel import Panel
from tts_jax.vision.musiq import MUSIQ

PROMPT = "A person is riding a bike-slowly"
LABELS = ("sailing", "riding a bike", "cooking", "singing", "reading", "boxing")
INFO = {"appearance_style": {"appearance_style": PROMPT}}


def network(seed, last, size, *, arrays=1, at_once=3, labels=(), scale=1.0):
    """A random map of means over 2x2 blocks, with its parameters inside."""
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(scale * rng.normal(size=(3 * arrays, *last)), jnp.float32)

    def run(weights, *x):
        joined = jnp.concatenate(x, -1)
        if last == (2,) or arrays == 2:  # a picture
            return jnp.tensordot(joined, weights, 1)
        return jnp.tensordot(joined.mean(tuple(range(1, joined.ndim - 1))), weights, 1)

    jitted = jax.jit(run)
    return Network(lambda *x: jitted(weights, *x), size, at_once, labels)


def texts(x):
    return np.asarray([[len(str(text)), 1.0, -2.0, 0.5] for text in x], np.float32)


NETWORKS = {
    "dino": network(0, (4,), 24),
    "clip_b32": network(1, (4,), 24),
    "clip_b32_text": Network(texts),
    "aesthetic": network(2, (), 24),
    "viclip": network(3, (4,), 24, at_once=1),
    "viclip_text": Network(texts),
    "musiq": network(4, (), 0),
    "raft": network(5, (2,), 0, arrays=2, at_once=1, scale=0.03),
    "amt": network(6, (3,), 0, arrays=2, at_once=2),
    "umt": network(7, (6,), 28, at_once=1, labels=LABELS, scale=9.0),
}
OWN = [name.removeprefix(PREFIX) for name in NAMES]


@pytest.fixture(scope="module")
def videos():
    """[2, T, H, W, 3] in [0, 1], of which one is dark and moves little; their bytes are exact."""
    levels = np.random.default_rng(0).integers(0, 256, (2, 7, 128, 144, 3))
    levels[1, 1:] = levels[1, :1]
    levels[1, 3:, :20] = 7
    levels[1] //= 64
    return levels.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("name", OWN)
def test_the_score_is_that_of_the_evaluation(name, videos):
    verifier = DimensionVerifier(name, NETWORKS, fps=16)
    (query,) = verifier.prepare(verifier.params, [PROMPT])
    found = jax.jit(verifier.score)(verifier.params, videos, query)
    for score, video in zip(found, videos, strict=True):
        levels = np.rint(video * 255).astype(np.uint8)
        verdict = DIMENSIONS[name](Video("v", levels, 16.0, PROMPT, INFO), NETWORKS)
        assert float(score) == pytest.approx(verdict.total / verdict.count, abs=2e-6)
    assert found.dtype == jnp.float32


def test_every_rule_without_detections_is_among_them_and_tells_videos_apart(videos):
    assert [name for name in DIMENSIONS if DIMENSIONS[name].recorded is None] == OWN
    verifier = DimensionVerifier("dynamic_degree", NETWORKS, fps=16)
    scores = verifier.score(verifier.params, videos, jnp.zeros(0))
    assert scores.tolist() == [1.0, 0.0]


def test_the_parameters_are_an_argument_of_the_score(videos):
    verifier = DimensionVerifier("subject_consistency", NETWORKS)
    other = jax.tree.map(lambda x: x.at[0].add(1.0), verifier.params)
    query = verifier.prepare(verifier.params, [PROMPT])[0]
    one, two = (verifier.score(params, videos, query) for params in (verifier.params, other))
    assert not np.allclose(one, two)
    assert verifier.abstract_params["dino"]["0"].shape == (3, 4)
    constants = jax.make_jaxpr(verifier.score)(verifier.params, videos, query).consts
    assert all(np.size(x) < 12 for x in constants if isinstance(x, jax.Array))


def test_rows_that_do_not_fill_a_call_are_not_answered_twice():
    lifted = Lifted(NETWORKS["dino"], (1, 24, 24, 3))
    rows = np.random.default_rng(3).random((7, 24, 24, 3), np.float32)
    found = lifted(lifted.params, jnp.asarray(rows))
    np.testing.assert_allclose(found, NETWORKS["dino"](rows), rtol=1e-6)


@pytest.mark.parametrize("name", ["subject_consistency", "motion_smoothness", "dynamic_degree"])
def test_a_single_frame_scores_like_a_still_video(name, videos):
    verifier = DimensionVerifier(name, NETWORKS, fps=8)
    query = verifier.prepare(verifier.params, [PROMPT])[0]
    wanted = 0.0 if name == "dynamic_degree" else 1.0
    assert verifier.score(verifier.params, videos[:1, :1], query).tolist() == [wanted]


def test_a_prompt_without_an_action_is_said():
    verifier = DimensionVerifier("human_action", NETWORKS)
    with pytest.warns(UserWarning, match="names no action that vbench.human_action knows"):
        assert verifier.prepare(verifier.params, ["a dog"]).tolist() == [[-1]]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("scene", {}, ValueError, "other programs record its detections"),
        ("motion", {}, ValueError, "'motion' is no VBench dimension"),
        ("temporal_flickering", {"rate": 8}, ValueError, "has no option 'rate'; it has fps"),
        ("imaging_quality", {}, CheckpointError, "convert musiq and name its folder"),
    ],
)
def test_what_cannot_judge_is_said(name, options, error, message):
    with pytest.raises(error, match=message):
        load_verifier(PREFIX + name, options=options)


def test_a_folder_that_is_not_there_and_a_missing_frame_rate_are_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere of vbench\.dynamic_degree does not exist"):
        load_verifier("vbench.dynamic_degree", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="musiq_spaq"):
        load_verifier("vbench.imaging_quality", tmp_path)
    with pytest.raises(ValueError, match="needs the option fps"):
        DimensionVerifier("dynamic_degree", NETWORKS)
    with pytest.raises(ValueError, match="takes no texts"):
        load_verifier("vbench.temporal_flickering", texts="judge.json")


def test_a_converted_folder_judges(videos, monkeypatch, tmp_path):
    monkeypatch.setitem(networks.PUBLISHED, "musiq", MUSIQ_TINY)
    params = blank(MUSIQ, MUSIQ_TINY)
    params["head"]["bias"] += 73
    save_safetensors(tmp_path / "musiq_spaq.safetensors", params, np.float32)
    verifier, params = load_verifier("vbench.imaging_quality", tmp_path)
    found = verifier.score(params, videos[:1, :1, :16, :16], jnp.zeros(0))
    assert found.tolist() == [pytest.approx(0.73)]


def searched(verifier):
    generator = Exact(Mixture.random(frames=1), Flow, 3, 1, 3)
    panel = Panel([verifier])
    params = {verifier.name: verifier.params}
    search = Search(generator, generator.params, panel, params, mesh=make_mesh(1))
    config = cli.parse(["x", "--config.search.preset=random_linear"]).config.search
    config.branches = 3
    return search.run("a dog", load_preset(config), keep_frames=False)


def test_a_search_is_judged_and_its_cost_counted():
    result = searched(DimensionVerifier("subject_consistency", NETWORKS))
    scores = [node.scores["vbench.subject_consistency"] for node in result.candidates]
    assert len(set(scores)) == 3 and result.incumbents[-1].scores == {
        "vbench.subject_consistency": max(scores)
    }
    assert result.ledger["vbench.subject_consistency"].flops > 0


def test_a_flow_network_refuses_small_frames_in_one_sentence():
    with pytest.raises(SearchFault, match=r"needs sides of at least 128 pixels, not 2 x 2$"):
        searched(DimensionVerifier("dynamic_degree", NETWORKS, fps=8))


def config(**entry):
    found = cli.parse(["x"]).config
    with found.unlocked():
        found.verifiers = ({"name": "vbench.temporal_flickering", **entry},)
    return found


def test_a_yardstick_in_the_panel_is_told_once_with_the_rate_of_the_files(recwarn):
    held = dict(name="flicker"), dict(name="vbench.temporal_flickering", held_out=True)
    loaded = models.load_models(config())
    told = [str(w.message) for w in recwarn if "upper bound" in str(w.message)]
    assert len(told) == 1 and "measure, vbench.temporal_flickering: what" in told[0]
    assert loaded.panel.verifiers[0].fps == 8
    silent = config()  # held out, it only reports
    with silent.unlocked():
        silent.verifiers = held
    models.load_models(silent)
    assert len([w for w in recwarn if "upper bound" in str(w.message)]) == 1


def test_another_frame_rate_than_that_of_the_files_is_refused():
    with pytest.raises(cli.UsageError, match=r"config\.video\.fps, with which files are"):
        models.load_models(config(options={"fps": 24}))
