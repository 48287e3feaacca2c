"""NOVA is converted whole, with or without its mixer, and verified on what was recorded of it."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from converters import verify
from converters.components import interpret, open_component
from converters.models import MODELS
from converters.registry import COMPONENTS
from tts_jax.generators.nova.generator import NovaConfig
from tts_jax.generators.nova.schedule import DDPM

NAMES = "nova_d48w1024_osp480", "nova_vae", "nova_text_encoder_phi2"


def keep(folder, prefixes):
    """Leaves in a golden folder only the tensors that begin so."""
    path = folder / "io.safetensors"
    tensors = {n: t for n, t in load_file(path).items() if n.startswith(prefixes)}
    path.unlink()
    save_file(tensors, path)


def test_recorded_calls_of_the_networks_pass(golden, tmp_path, run, capsys):
    shutil.copytree(golden("nova_transformer"), tmp_path / "nova_transformer")
    assert run(verify, golden=tmp_path / "nova_transformer") == 0
    printed = capsys.readouterr().out
    for name in ("cond/c", "video/causal_out", "image/out_n0", "decoder/out_all"):
        assert name in printed


def test_recorded_calls_of_the_autoencoder_pass(golden, tmp_path, run, capsys):
    shutil.copytree(golden("nova_vae"), tmp_path / "nova_vae")
    keep(tmp_path / "nova_vae", ("image/", "decode_image/"))
    assert run(verify, golden=tmp_path / "nova_vae") == 0
    assert "image/moments" in capsys.readouterr().out


def test_an_unknown_field_of_the_autoencoder_is_noticed(golden):
    fields = json.loads((golden("nova_vae") / "config.json").read_text())
    *_, faults = interpret(COMPONENTS["nova_vae"], fields)
    assert not faults
    *_, faults = interpret(COMPONENTS["nova_vae"], fields | {"tiles": 2})
    assert faults == ["field 'tiles' is unknown"]


@pytest.fixture
def published(golden, tmp_path):
    """`published(mixer, rank)`: a transformer's folder; the rank is left out if None."""

    def write(mixer, rank):
        source = golden("nova_transformer")
        fields = json.loads((source / "config.json").read_text())
        fields.pop("video_mixer_rank")
        fields |= {} if rank is None else {"video_mixer_rank": rank}
        tensors = load_file(source / "weights.safetensors")
        tensors = {n: t for n, t in tensors.items() if mixer or ".mixer." not in n}
        (tmp_path / "config.json").write_text(json.dumps(fields))
        save_file(tensors, tmp_path / "model.safetensors")
        return open_component(
            COMPONENTS[NAMES[0]], tmp_path / "config.json", tmp_path / "model.safetensors"
        )

    return write


def test_the_weights_say_whether_there_is_a_mixer(published, golden):
    rank = json.loads((golden("nova_transformer") / "config.json").read_text())
    rank = rank["video_mixer_rank"]
    for mixer, named, wanted in ((True, None, rank), (True, rank, rank), (False, None, 0)):
        found = published(mixer, named)
        assert found.faults == [] and found.config.mixer_rank == wanted
        assert found.fields["video_mixer_rank"] == wanted
    assert "video_mixer_rank" in " ".join(published(True, rank + 1).faults)


def test_the_published_configs_make_a_generator():
    model = MODELS["nova"]
    assert sorted(part.component for part in model.parts.values()) == sorted(NAMES)
    configs = {name: model.component(name).published() for name in model.parts}
    settings = {
        "scheduler": {
            "beta_schedule": "squaredcos_cap_v2",
            "steps_offset": 1,
            "prediction_type": "epsilon",
        }
    }
    fields = model.entries(configs, settings)["generator"]
    assert fields.pop("name") == "nova"
    config = NovaConfig.from_json(json.loads(json.dumps(fields)))
    assert config == NovaConfig.d48w1024_osp480()
    assert config.sampler.diffusion == DDPM(betas="squaredcos_cap_v2", offset=1)
    settings["scheduler"] = {"shift": 3.0}
    assert model.entries(configs, settings)["generator"]["sampler"]["solver"] == "flow"
