"""Image to video: the given frame is unit 0, and the rest is what follows any first frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tts_jax.generators import load_generator
from tts_jax.generators.from_image import FromImage
from tts_jax.generators.protocol import Generator
from tts_jax.generators.pyramid_flow.vae import CausalVideoVAE
from tts_jax.nn.autoencoder import posterior_mode

PROMPT = "a red circle moving right"


def some_image(generator, seed=0):
    config = generator.config
    side = config.sampler.height * config.vae.spatial_factor
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def inner(make_generator):
    return make_generator()


@pytest.fixture(scope="module")
def params(inner, randomise):
    return randomise(inner.init_params(), 0)


@pytest.fixture(scope="module")
def generator(inner):
    return FromImage(inner, some_image(inner))


@pytest.fixture(scope="module")
def condition(generator, params):
    return jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT, PROMPT]))


def test_it_is_a_generator_with_one_unit_less(generator, inner):
    assert isinstance(generator, Generator)
    assert generator.num_segments == inner.num_segments - 1
    assert generator.units == inner.units[1:]
    programs = {generator.program(s) for s in range(generator.num_segments)}
    assert programs == {inner.program(1)}
    assert generator.nfe(0) == inner.nfe(1)


def test_unit_0_is_a_draw_from_the_posterior_of_the_image(generator, params, condition):
    start = jax.jit(jax.vmap(lambda key: generator.init(params, condition, key).latents))
    draws = np.asarray(start(jax.random.split(jax.random.key(0), 400)))
    assert (draws[:, 1:] == 0).all()
    vae = CausalVideoVAE(generator.config.vae, rngs=nnx.Rngs(0))
    nnx.update(vae, params["vae"])
    moments = vae.encode(generator.image[None, None] * 2 - 1)[0]
    factors = generator.config.latent_factors
    mean = factors.to_model(posterior_mode(moments))
    deviation = jnp.exp(jnp.split(moments, 2, axis=-1)[1] / 2) * factors.first_scale
    scores = (draws[:, :1] - mean) / deviation
    assert abs(scores.mean()) < 0.02 and abs(scores.std() - 1) < 0.02
    assert np.abs(scores.mean(0)).max() < 6 / 20


def test_segments_are_those_after_a_first_frame(generator, inner, params, condition):
    key = jax.random.key(3)
    branch = generator.init(params, condition, key)
    advance = jax.jit(generator.advance)
    wanted = jax.jit(inner.advance)(params, condition.text, branch, key, 1)
    found = advance(params, condition, branch, key, 0)
    np.testing.assert_allclose(found.latents, wanted.latents, atol=1e-6)
    np.testing.assert_array_equal(found.latents[0], branch.latents[0])
    done = advance(params, condition, found, jax.random.key(4), 1)
    assert generator.estimate(params, condition, done, 1).shape[0] == 3
    assert advance._cache_size() == 1


def test_a_unit_in_blocks_can_be_estimated_and_noised_again(make_generator, params):
    inner = make_generator(segment="stage", share_root_noise=True)
    generator = FromImage(inner, some_image(inner))
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    branch = generator.init(params, condition, jax.random.key(0))
    assert (branch.noise != 0).all() and generator.units == (3, 3, 3)
    branch = generator.advance(params, condition, branch, jax.random.key(1), 0)
    look = generator.estimate(params, condition, branch, 0, "clean")
    assert look.shape[0] == 2 and np.isfinite(look).all()
    back = generator.renoise(params, condition, branch, jax.random.key(2), 1, 0, 1.0)
    np.testing.assert_array_equal(back.latents[0], branch.latents[0])
    assert generator.renoise_nfe(1, 0) == 0 and generator.estimate_nfe(0, "clean") == 0


def test_a_picture_is_resized_and_its_generator_loaded(tmp_path):
    Image.new("RGB", (50, 40), (200, 100, 0)).save(tmp_path / "start.png")
    generator, params = load_generator("pyramid_flow", image=tmp_path / "start.png")
    assert isinstance(generator, FromImage) and set(params) == set(generator.abstract_params)
    assert generator.image.shape == (32, 32, 3)
    np.testing.assert_allclose(generator.image[5, 6] * 255, (200, 100, 0), atol=1)
    with pytest.raises(ValueError, match=r"none\.png cannot be read"):
        load_generator("pyramid_flow", image=tmp_path / "none.png")


def test_images_of_another_size_or_range_are_refused(inner):
    image = some_image(inner)
    for wrong, part in ((image[1:], "frames are"), (image / 200, "8-bit")):
        with pytest.raises(ValueError, match=part):
            FromImage(inner, wrong)
