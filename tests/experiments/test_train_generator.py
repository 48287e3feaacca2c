"""Training a generator: both families by one program, which goes on where it was killed."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import train_generator as pyramid_flow_config
from configs import train_nova as nova_config
from experiments import cli, train_generator
from tts_jax.generators import EMBEDDED, load_generator
from tts_jax.worlds import moving_shapes as world

CONFIGS = {"pyramid_flow": pyramid_flow_config, "nova": nova_config}
SMALL = (
    "--config.transformer.width=16",
    "--config.transformer.decoder_width=16",
    "--config.transformer.video_layers=1",
    "--config.transformer.image_layers=2",
    "--config.transformer.decoder_layers=1",
    "--config.initial.text=",
    "--config.text.layers=1",
    "--config.sampler.steps=2",
    "--config.sampler.diffusion_steps=2",
    "--config.sampler.draft_steps=1",
    "--config.sampler.draft_diffusion_steps=1",
    "--config.objective.size=1",
    "--config.videos=8",
    "--config.steps=4",
    "--config.decay=1",
    "--config.warmup=1",
    "--config.log_every=1",
    "--config.save_every=2",
    "--config.evaluate_every=4",
    "--config.evaluate_captions=8",
)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """The folder of a trained autoencoder, as `experiments.train_vae` writes it."""
    folder = tmp_path_factory.mktemp("vae")
    described = json.loads((EMBEDDED / "config.json").read_text())["generator"]
    fields = {name: described[name] for name in ("vae", "latent_factors")}
    (folder / "vae.json").write_text(json.dumps(fields))
    shutil.copy(EMBEDDED / "vae.safetensors", folder)
    return folder


def train(vae, workdir):
    program = train_generator
    argv = [
        "train_generator",
        "--config=configs/train_nova.py",
        f"--workdir={workdir}",
        f"--config.vae={vae}",
        *SMALL,
    ]
    assert cli.run(program.main, doc=program.__doc__, define=program.define, argv=argv) == 0
    return (workdir / "losses.jsonl").read_text()


def test_a_killed_training_goes_on_through_the_same_losses(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(train_generator, "use_all_cores", lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    losses = train(vae, tmp_path)
    assert [json.loads(line)["step"] for line in losses.splitlines()] == [1, 2, 3, 4]
    assert (tmp_path / "samples_000004.png").is_file()
    weights = (tmp_path / "checkpoint" / "transformer.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "checkpoint")
    assert train(vae, tmp_path) == losses
    assert (tmp_path / "checkpoint" / "transformer.safetensors").read_bytes() == weights

    generator, params = load_generator("nova", tmp_path / "checkpoint")
    conditions = generator.encode(params, ["a red circle moving right"])
    frames = train_generator.sample(generator)(
        params, conditions, jax.random.split(jax.random.key(0), 1)
    )
    assert frames.shape == (1, world.FRAMES, world.SIZE, world.SIZE, 3)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_config_describes_a_generator_of_its_family(vae, name):
    config = CONFIGS[name].get_config()
    config.vae = str(vae)
    generator, _ = train_generator.build_generator(config)
    objective = train_generator.TRAINING[name].Objective(**config.objective.to_dict())
    assert generator.name == name and objective.size > 0
    assert generator.num_segments == 5
    drawn = np.random.default_rng(0).integers(2, size=objective.size).astype(bool)
    batch = {
        "latents": np.zeros((objective.size, 5, 8, 8, 8), np.float16),
        "tokens": np.zeros((objective.size, generator.tokenizer.length), np.int32),
        "dropped": drawn,
    }
    loss = train_generator.TRAINING[name].make_loss(generator, objective)
    value, figures = jax.eval_shape(loss, generator.abstract_params, batch, jax.random.key(0))
    assert value.shape == () and "loss" in figures
