"""What the compiler makes of a denoising loop whose branches alone are divided, in bfloat16."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from tts_jax.generators.cogvideox.generator import CogVideoX, CogVideoXConfig, SamplerConfig
from tts_jax.generators.cogvideox.transformer import TransformerConfig
from tts_jax.generators.cogvideox.vae import VAEConfig
from tts_jax.language.t5 import T5Config
from tts_jax.nn.attention import TILE_K
from tts_jax.parallel import make_mesh
from tts_jax.planning import chips, executable
from tts_jax.planning.published import StandInTokenizer
from tts_jax.planning.sketch import Sketch
from tts_jax.search import load_preset
from tts_jax.verifiers.flicker import FlickerVerifier
from tts_jax.verifiers.panel import Panel

TEXT, BRANCHES, STEPS = 16, 8, 2


@pytest.fixture(scope="module")
def generator():
    """Two layers, and tokens enough for the attention kernel."""
    config = CogVideoXConfig(
        t5=T5Config(vocabulary=32, width=8, heads=1, head_size=4, layers=1, mlp=8),
        transformer=TransformerConfig(
            heads=2,
            head_size=64,
            layers=2,
            latent_channels=4,
            text_width=8,
            time_width=16,
            rotary=True,
        ),
        vae=VAEConfig(latent_channels=4, channels=(2, 2), layers=1, groups=1, scale=1.0),
        sampler=SamplerConfig(
            solver="ddim",
            snr_shift=3.0,
            frames=9,
            height=128,
            width=512,
            text_length=TEXT,
            steps=2 * STEPS,
            steps_per_segment=STEPS,
        ),
    )
    return CogVideoX(config, {"t5": StandInTokenizer(TEXT)})


@pytest.fixture(scope="module")
def loop(generator):
    """The program of a segment, traced for four v5e chips."""
    frames, height, width, _ = generator.config.latent_shape
    assert frames * height * width // 4 >= TILE_K
    mesh = make_mesh(branch=4, devices=chips.tpu_devices("v5e:2x2")[1])
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), generator.abstract_params
    )
    panel = Panel([FlickerVerifier()], [1.0], "sum")
    sketch = Sketch(generator, params, panel, {"flicker": {}}, mesh=mesh)
    sketch.plan(load_preset(ConfigDict({"preset": "random_linear", "branches": BRANCHES})))
    (program,) = (p for p in sketch.recorder.programs.values() if "next" in p.name)
    return program


def test_chips_that_have_their_own_branches_tell_each_other_nothing(loop):
    text = executable.read(executable.compile_for(loop.traced.lower()).as_text())
    assert text.kernels == 2 * STEPS  # of layers and steps
    assert not text.collectives


def test_all_products_are_of_16_bit_numbers_but_the_attention_kernel_s_second_ones(loop):
    assert 0 < loop.work.kernels < loop.work.flops
    assert loop.work.wide == loop.work.kernels / 2
