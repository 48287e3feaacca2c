"""The converter programs: a checkpoint is converted whole or not at all, and checked."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import convert, verify
from converters.registry import MODELS
from tts_jax.checkpoints import flatten, load_safetensors
from tts_jax.generators.pyramid_flow.vae import VAEConfig

NAME = "pyramid_flow_vae"


@pytest.fixture
def published(golden, tmp_path):
    """A checkpoint laid out as the published ones are."""
    folder = tmp_path / "published"
    folder.mkdir()
    shutil.copy(golden(NAME) / "config.json", folder)
    shutil.copy(
        golden(NAME) / "weights.safetensors", folder / "diffusion_pytorch_model.safetensors"
    )
    return folder


def run(program, **flags):
    return program.program(["program", *(f"--{name}={value}" for name, value in flags.items())])


def test_a_converted_part_loads_as_its_config_says(published, tmp_path, capsys):
    target = tmp_path / "ours"
    assert run(convert, model=NAME, src=published, dst=target) == 0
    assert "all accounted for" in capsys.readouterr().out
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "vae.safetensors"]
    generator = json.loads((target / "config.json").read_text())["generator"]
    assert generator["name"] == "pyramid_flow"
    config = VAEConfig(**generator["vae"])
    assert config == VAEConfig.from_reference(json.loads((published / "config.json").read_text()))
    params = load_safetensors(target / "vae.safetensors", MODELS[NAME].abstract(config)[1])
    wanted = load_file(published / "diffusion_pytorch_model.safetensors")
    kernel = params["encoder"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(
        kernel, wanted["encoder.conv_in.conv.weight"].transpose(2, 3, 4, 1, 0)
    )
    assert len(flatten(params)) == len(wanted)


def test_parts_share_a_folder_but_generators_do_not(published, tmp_path, capsys):
    target = tmp_path / "ours"
    target.mkdir()
    entries = {"world": "w", "generator": {"name": "pyramid_flow", "text": {"width": 3}}}
    (target / "config.json").write_text(json.dumps(entries))
    assert run(convert, model=NAME, src=published, dst=target, dtype="bfloat16") == 0
    merged = json.loads((target / "config.json").read_text())
    assert merged["world"] == "w" and set(merged["generator"]) == {"name", "text", "vae"}
    entries["generator"]["name"] = "other"
    (target / "config.json").write_text(json.dumps(entries))
    assert run(convert, model=NAME, src=published, dst=target) == 2
    assert "generator 'other'" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(published, golden, tmp_path):
    target = tmp_path / "ours"
    assert run(convert, model=NAME, src=published, dst=target, dry_run=True) == 0
    manifest = golden("manifests") / f"{NAME}.json"
    assert run(convert, model=NAME, src=manifest, dry_run=True) == 0
    assert not target.exists()


def test_a_checkpoint_that_does_not_fit_leaves_nothing_behind(published, tmp_path, capsys):
    weights = published / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["stranger"] = tensors.pop("quant_conv.conv.bias")
    save_file(tensors, weights)
    assert run(convert, model=NAME, src=published, dst=tmp_path / "ours") == 2
    message = capsys.readouterr().err
    assert "stranger: no rule" in message and "quant.bias" in message
    assert not (tmp_path / "ours").exists()


def test_wrong_flags_are_named(published, tmp_path, capsys):
    assert run(convert, model="nothing", src=published, dst=tmp_path) == 2
    assert run(convert, model=NAME, src=published) == 2
    assert run(convert, model=NAME, src=tmp_path, dst=tmp_path / "ours") == 2
    assert run(verify, golden=tmp_path) == 2
    messages = capsys.readouterr().err
    for part in (NAME, "--dst is missing", "config.json cannot be read", "no golden folder"):
        assert part in messages


def test_a_wrong_weight_fails_the_verification(golden, tmp_path, capsys):
    folder = tmp_path / NAME
    shutil.copytree(golden(NAME), folder)
    tensors = {
        name: tensor
        for name, tensor in load_file(folder / "io.safetensors").items()
        if name.startswith(("enc_t1.", "dec_t1."))  # the smallest calls are enough
    }
    (folder / "io.safetensors").unlink()
    save_file(tensors, folder / "io.safetensors")
    assert run(verify, golden=tmp_path) == 0
    assert capsys.readouterr().out.count(" ok") == 2
    weights = load_file(folder / "weights.safetensors")
    weights["post_quant_conv.conv.bias"] = weights["post_quant_conv.conv.bias"] + 0.01
    (folder / "weights.safetensors").unlink()
    save_file(weights, folder / "weights.safetensors")
    assert run(verify, golden=folder) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [("ok" in line, "dec_t1" in line) for line in sorted(lines)] == [
        (False, True),
        (True, False),
    ]
