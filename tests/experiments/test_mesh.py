"""Over how many devices a published config divides its models, on machines of several kinds."""

import jax
import jax.numpy as jnp
import pytest

from configs import cogvideox_5b, pyramid_flow_flux_768p, study_video_t1
from configs.embedded import verifier
from experiments import models
from experiments.models import axes_of, mesh_of, open_models
from tts_jax.planning.chips import GIB

V5E, V6E = 16 * GIB, 32 * GIB


def judged(config, *names):
    """A config's search, judged by published vision-language models."""
    with config.unlocked():
        config.verifiers = tuple(verifier(n, weight=1.0, checkpoint=f"x/{n}") for n in names)
    return config


@pytest.mark.parametrize(
    "config, memory, count",
    [
        (cogvideox_5b.get_config(), V5E, 2),
        (cogvideox_5b.get_config(), V6E, 1),
        (pyramid_flow_flux_768p.get_config(), V5E, 1),
        (judged(cogvideox_5b.get_config(), "videollama3"), V5E, 4),
        (judged(cogvideox_5b.get_config(), "videollama3"), V6E, 2),
        (study_video_t1.get_config(), V5E, 8),
    ],
)
def test_a_config_divides_its_models_as_its_chips_want(config, memory, count):
    opened = open_models(config, jnp.bfloat16)
    assert axes_of(config, opened, memory, 16) == {"branch": 0, "model": count, "sequence": 1}
    assert axes_of(config, opened, memory, 1)["model"] == 1
    config.mesh.update(branch=4, sequence=2)
    assert axes_of(config, opened, memory, 16)["model"] == min(count, 2)
    config.mesh.model = 1  # what is asked for
    assert axes_of(config, opened, memory, 16)["model"] == 1


def test_on_cpu_every_device_holds_whole_models():
    config = cogvideox_5b.get_config()
    assert config.mesh.model == 0
    assert mesh_of(config).shape == {"branch": jax.device_count(), "model": 1, "sequence": 1}
    config.mesh.branch = 1
    assert mesh_of(config).size == 1


def test_a_mesh_is_chosen_by_the_memory_of_its_devices(monkeypatch):
    monkeypatch.setattr(models, "_device_memory", lambda: V5E)
    config, devices = cogvideox_5b.get_config(), jax.device_count()
    assert mesh_of(config).shape == {"branch": devices // 2, "model": 2, "sequence": 1}
    config.generator.checkpoint = "checkpoints/of_nobody"  # loading refuses it
    assert mesh_of(config).shape["model"] == 1
