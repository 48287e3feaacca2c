"""Training a generator: both families by one program, which goes on where it was killed."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest

from configs import embedded_nova
from configs import train_generator as pyramid_flow_config
from configs import train_nova as nova_config
from experiments import cli, train_generator, training
from experiments.models import load_models
from tts_jax.checkpoints import save_safetensors
from tts_jax.generators import EMBEDDED
from tts_jax.worlds import moving_shapes as world

CONFIGS = {"pyramid_flow": pyramid_flow_config, "nova": nova_config}
SMALL = (
    "--config.transformer.width=16",
    "--config.transformer.decoder_width=16",
    "--config.transformer.video_layers=1",
    "--config.transformer.image_layers=2",
    "--config.transformer.decoder_layers=1",
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


@pytest.fixture(scope="module")
def initial(vae, tmp_path_factory):
    """A folder of parameters drawn on the host, which is quicker than compiling initialisers."""
    folder = tmp_path_factory.mktemp("initial")
    config = parse(vae, folder, folder).config
    generator, _ = train_generator.build_generator(config)
    rng = np.random.default_rng(0)
    for name in ("text", "transformer"):
        shapes = generator.abstract_params[name]
        drawn = jax.tree.map(lambda leaf: 0.2 * rng.standard_normal(leaf.shape), shapes)
        save_safetensors(folder / f"{name}.safetensors", drawn)
    return folder


def parse(vae, initial, workdir):
    argv = [
        "train_generator",
        "--config=configs/train_nova.py",
        f"--workdir={workdir}",
        f"--config.vae={vae}",
        *(f"--config.initial.{name}={initial}" for name in ("text", "transformer")),
        *SMALL,
    ]
    return cli.parse(argv, define=train_generator.define, config="train_generator.py")


def test_a_killed_training_goes_on_through_the_same_losses(vae, initial, tmp_path, monkeypatch):
    """By plain gradient descent on one device: Muon over many takes long to compile."""
    monkeypatch.setattr(train_generator, "use_all_cores", lambda: None)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(training, "optimizer", lambda config: optax.sgd(1e-2))
    options = parse(vae, initial, tmp_path)
    train_generator.main(options)
    losses = (tmp_path / "losses.jsonl").read_text()
    assert [json.loads(line)["step"] for line in losses.splitlines()] == [1, 2, 3, 4]
    assert (tmp_path / "samples_000004.png").is_file()
    checkpoint = tmp_path / "checkpoint"
    weights = (checkpoint / "transformer.safetensors").read_bytes()
    assert weights != (initial / "transformer.safetensors").read_bytes()
    assert load_models(embedded_config(checkpoint)).world is world

    shutil.rmtree(tmp_path / "checkpoints" / "4")
    shutil.rmtree(checkpoint)
    frames = np.zeros((8, world.FRAMES, world.SIZE, world.SIZE, 3))
    monkeypatch.setattr(train_generator, "sample", lambda generator: lambda *args: frames)
    train_generator.main(options)
    assert (tmp_path / "losses.jsonl").read_text() == losses
    assert (checkpoint / "transformer.safetensors").read_bytes() == weights


def embedded_config(checkpoint):
    """The config for searching with such a checkpoint."""
    config = embedded_nova.get_config()
    config.generator.checkpoint = str(checkpoint)
    config.verifiers = embedded_nova.get_config().verifiers[2:]
    config.generator.update(steps=2, diffusion_steps=2)
    return config


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_config_describes_a_generator_of_its_family(vae, name):
    config = CONFIGS[name].get_config()
    config.vae = str(vae)
    generator, _ = train_generator.build_generator(config)
    objective = train_generator.TRAINING[name].Objective(**config.objective.to_dict())
    assert generator.name == name and generator.num_segments == 5 and objective.size > 0
    parts = set(generator.networks) - {"vae"}
    assert parts == set(config.initial) == {"text", "transformer"}
