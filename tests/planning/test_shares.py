"""What of a published denoiser's steps, at full size in bfloat16, the matrix units of a TPU do."""

import jax
import pytest
from jax import numpy as jnp

from configs import cogvideox_5b, pyramid_flow_flux_768p
from experiments.models import open_models
from tts_jax.nn import attention
from tts_jax.planning.jaxprs import work_of


@pytest.mark.parametrize("config", [pyramid_flow_flux_768p, cogvideox_5b])
def test_nearly_all_work_is_products_of_16_bit_numbers(config):
    generator, params, _, _ = open_models(config.get_config(), jnp.bfloat16)
    with attention.on_platform("tpu"):
        conditions = jax.eval_shape(lambda p: generator.encode(p, ["a red circle"]), params)
        condition = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), conditions)
        key = jax.eval_shape(lambda: jax.random.key(0))
        branch = jax.eval_shape(generator.init, params, condition, key)
        last = generator.num_segments - 1
        step = jax.make_jaxpr(lambda p, c, b, k: generator.advance(p, c, b, k, last))
        work = work_of(step(params, condition, branch, key))
    assert work.share > 0.95
    # the attention kernel's second products are of what it has just computed in float32
    assert 0.2 < work.kernels / work.flops < 0.6 and work.wide == work.kernels / 2
