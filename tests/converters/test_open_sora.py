"""The three published directories of Open-Sora are converted into one generator."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import convert, verify
from tts_jax.generators import load_generator


@pytest.fixture
def published(golden, make_t5, tmp_path):
    """The directories side by side, with the recorded networks."""
    root = tmp_path / "published"
    for folder, recorded in (
        ("OpenSora-STDiT-v3", "open_sora_stdit3"),
        ("OpenSora-VAE-v1.2", "open_sora_vae"),
    ):
        (root / folder).mkdir(parents=True)
        shutil.copy(golden(recorded) / "config.json", root / folder)
        shutil.copy(golden(recorded) / "weights.safetensors", root / folder / "model.safetensors")
    fields = json.loads((root / "OpenSora-STDiT-v3/config.json").read_text())
    t5 = make_t5(root / "t5-v1_1-xxl", width=fields["caption_channels"], layers=1)
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0]]
    saved = {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 2}}
    saved["model"]["vocab"] = pieces
    (t5.folder / "tokenizer.json").write_text(json.dumps(saved))
    return root


def test_a_converted_generator_loads_as_it_is_stored(published, tmp_path, golden, run, capsys):
    flags = {"model": "open_sora_1_2", "src": published, "dst": tmp_path / "ours"}
    assert run(convert, **flags) == 0
    generator, params = load_generator("open_sora", tmp_path / "ours", steps=7, clips=2)
    sampler, config = generator.config.sampler, generator.config
    assert (sampler.steps, sampler.guidance, sampler.frames) == (7, 7.0, 51)
    assert config.latent_shape == (15, 30, 53, 4)
    assert generator.tokenizer.tokenize(["a"])[0].shape == (1, config.transformer.text_length)
    stored = load_file(golden("open_sora_stdit3") / "weights.safetensors")
    null = params["transformer"]["null_text"]
    np.testing.assert_array_equal(null, stored["y_embedder.y_embedding"])
    capsys.readouterr()
    flags = {"golden": one_call(golden, tmp_path), "checkpoint": tmp_path / "ours"}
    assert run(verify, **flags) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "cfg.out" in line and line.endswith("ok")


def one_call(golden, folder):
    """A golden folder with one of the recorded calls, that of guidance."""
    target = folder / "open_sora_stdit3"
    target.mkdir()
    tensors = load_file(golden("open_sora_stdit3") / "io.safetensors")
    save_file({n: x for n, x in tensors.items() if n.startswith("cfg.")}, target / "io.safetensors")
    shutil.copy(golden("open_sora_stdit3") / "config.json", target)
    return target


def test_settings_are_checked_before_weights(published, run, capsys):
    path = published / "OpenSora-STDiT-v3/config.json"
    fields = json.loads(path.read_text())
    for change, fault in (
        ({"qk_norm": False}, "qk_norm=False"),
        ({"use_new_rope": True}, "'use_new_rope' is unknown"),
    ):
        path.write_text(json.dumps(fields | change))
        assert run(convert, model="open_sora_1_2", src=published, dry_run=True) == 2
        assert fault in capsys.readouterr().err
    path.write_text(json.dumps(fields | {"caption_channels": fields["caption_channels"] + 1}))
    assert run(convert, model="open_sora_1_2", src=published, dry_run=True) == 2
    assert "y_embedding" in capsys.readouterr().err
