"""NOVA is trained for what sampling does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import tiny_nova
from tts_jax.checkpoints import abstract_params
from tts_jax.generators.nova import sampler as nova
from tts_jax.generators.nova import training
from tts_jax.generators.nova.sampler import SamplerConfig
from tts_jax.generators.nova.schedule import DDPM, FlowMatching
from tts_jax.generators.nova.transformer import Transformer

SIZE = tiny_nova.transformer(
    grid=(2, 4), video_grid=(1, 2), text_width=6, text_length=3, text_rows=4, width=8,
    decoder_width=8,
)  # fmt: skip
SAMPLER = SamplerConfig(
    frames=3, steps=4, diffusion_steps=2, draft_steps=2, draft_diffusion_steps=1, solver="flow"
)


@pytest.fixture(scope="module")
def model():
    graph, params = abstract_params(Transformer, SIZE)
    rng = np.random.default_rng(1)
    return graph, jax.tree.map(
        lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), params
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 3, 4, 8, 2)).astype(np.float32)
    states = rng.standard_normal((2, 3, 6)).astype(np.float32)
    return latents, states, np.array([[True, True, False], [False] * 3])


def test_a_frame_has_the_conditions_it_has_in_sampling(model, batch):
    latents, states, mask = batch

    @jax.jit
    def both(params):
        model = nnx.merge(model_graph, params)
        prompts = model.embed_prompt(
            model.text.pad(states, mask), jnp.full(2, SAMPLER.flow), jnp.full(2, SAMPLER.rate)
        )
        trained = training.frame_conditions(model, SAMPLER, prompts, latents)
        sampled = SamplerConfig(frames=3, guidance=1.0, solver="flow")
        first, cache = nova.first_frame(model, sampled, prompts[:1], 5 + 3 * SIZE.condition_tokens)
        frames = [first]
        for frame in (1, 2):
            features, cache = nova.next_frame(model, sampled, prompts[:1], latents[0], frame, cache)
            frames.append(model.video.mix(first, features))
        return trained[0], jnp.concatenate(frames)

    model_graph, params = model
    trained, sampled = both(params)
    np.testing.assert_allclose(trained, sampled, atol=1e-5)


def test_as_many_tokens_are_missing_as_in_sampling():
    orders, counts = training.draw_known(jax.random.key(0), 16, 4000)
    np.testing.assert_array_equal(
        np.sort(orders, axis=-1), np.broadcast_to(np.arange(16), (4000, 16))
    )
    assert counts.min() == 0 and counts.max() == 15
    np.testing.assert_allclose(16 - counts.mean(), 16 * 2 / np.pi + 0.5, atol=0.3)
    places = np.asarray(orders)[:, 0]
    assert np.bincount(places, minlength=16).min() > 150


def test_the_loss_sees_a_prompt_only_where_it_is_told(model, batch):
    graph, params = model
    latents, states, mask = batch
    objective = training.Objective(size=2, targets=3, times=2, history_noise=0.1)

    @jax.jit
    def run(states):
        return training.loss(
            graph, params, jax.random.key(1), latents, states, mask, config=SAMPLER,
            objective=objective,
        )  # fmt: skip

    value, figures = run(states)
    assert np.isfinite(value) and set(figures) == {"first", "next"}
    assert min(figures.values()) <= value <= max(figures.values())
    hidden, seen = states.copy(), states.copy()
    hidden[1], hidden[0, 2] = 5, 5
    seen[0, 1] = 5
    assert run(hidden)[0] == value
    assert run(seen)[0] != value


@pytest.mark.parametrize("diffusion", [FlowMatching(), FlowMatching(shift=2.0), DDPM(offset=1)])
def test_a_perfect_prediction_leads_back_to_the_data(diffusion):
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, 5, 3)).astype(np.float32)
    places = np.array([0, 1, 400, 900, 998])
    noisy, target = diffusion.add_noise(clean, noise, places), diffusion.target(clean, noise)
    times = np.asarray(diffusion.times(places))
    assert 0 < times.max() <= diffusion.num_train_timesteps
    if isinstance(diffusion, FlowMatching):
        back = noisy - times[:, None] / diffusion.num_train_timesteps * target
        assert times[0] == pytest.approx(diffusion.timesteps(4)[0])
    else:
        level = diffusion.levels[places][:, None]
        back = (noisy - np.sqrt(1 - level) * target) / np.sqrt(level)
        np.testing.assert_array_equal(times, places)
    np.testing.assert_allclose(back, clean, atol=2e-2)
