"""Wan-AI's own layout is told by its files, and is converted as strictly as that of diffusers."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from converters import convert, verify, wan_original
from converters.sources import read_tensors
from tts_jax.checkpoints import ORBAX
from tts_jax.generators import load_generator

NETWORKS = {"transformer": wan_original.DENOISER, "vae": wan_original.VAE, "umt5": wan_original.T5}


@pytest.fixture
def published(golden, tmp_path, monkeypatch):
    """A whole directory with the recorded networks, as if their sizes were the published ones."""
    root = tmp_path / "Wan2.1-T2V"
    (root / wan_original.TOKENIZER).mkdir(parents=True)
    fields = {}
    for network, place in NETWORKS.items():
        folder = golden(f"wan_original_{network}")
        fields[network] = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "weights.safetensors")
        if network == "transformer":
            save_file(tensors, root / f"{place}.safetensors")
        else:
            torch.save(tensors, root / place)
    own, text, latents = fields["transformer"], fields["umt5"]["d_model"], fields["vae"]["z_dim"]
    own |= {"in_dim": latents, "out_dim": latents, "text_dim": text}
    weights = root / f"{wan_original.DENOISER}.safetensors"
    tensors = load_file(weights)
    for name, shape in (  # the three were recorded apart: their sizes need not agree
        ("patch_embedding.weight", (own["dim"], latents, 1, 2, 2)),
        ("head.head.weight", (4 * latents, own["dim"])),
        ("head.head.bias", (4 * latents,)),
        ("text_embedding.0.weight", (own["dim"], text)),
    ):
        tensors[name] = torch.from_numpy(np.resize(tensors[name].numpy(), shape))
    save_file(tensors, weights)
    (root / "config.json").write_text(json.dumps({"_class_name": "WanModel", **own}))
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0]]
    saved = {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 2}}
    saved["model"]["vocab"] = pieces
    (root / wan_original.TOKENIZER / "tokenizer.json").write_text(json.dumps(saved))
    monkeypatch.setattr(wan_original, "VAE_FIELDS", fields["vae"])
    monkeypatch.setattr(wan_original, "T5_FIELDS", fields["umt5"])
    return root


def shard(root):
    """Splits the denoiser in two, as the larger one is published."""
    whole = root / f"{wan_original.DENOISER}.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    index = {}
    for i in range(2):
        part = dict(list(tensors.items())[i::2])
        name = f"{wan_original.DENOISER}-0000{i + 1}-of-00002.safetensors"
        save_file(part, root / name)
        index |= dict.fromkeys(part, name)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (root / f"{whole.name}.index.json").write_text(text)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_originals_recorded_calls_pass(golden, run, capsys, network):
    assert run(verify, golden=golden(f"wan_original_{network}")) == 0
    assert ".out" in capsys.readouterr().out


def test_whole_and_sharded_directories_become_the_same_checkpoint(
    published, golden, tmp_path, run, capsys
):
    assert run(convert, model="wan2_1_1_3b", src=published, dst=tmp_path / "small") == 0
    shard(published)
    assert run(convert, model="wan2_1_14b", src=published, dst=tmp_path / "large") == 0
    small, params = load_generator("wan", tmp_path / "small", steps=7)
    large, others = load_generator("wan", tmp_path / "large")
    jax.tree.map(np.testing.assert_array_equal, params, others)
    found = [(g.config.sampler.height, g.config.sampler.shift) for g in (small, large)]
    assert found == [(480, 3.0), (720, 5.0)]
    assert small.tokenizer.tokenize(["a"])[0].shape == (1, 512)
    capsys.readouterr()
    flags = {"golden": golden("wan_original_umt5"), "checkpoint": tmp_path / "small"}
    assert run(verify, **flags) == 0 and "masked.out" in capsys.readouterr().out


def test_self_forcing_takes_it_as_base_without_its_denoiser(published, tmp_path, run):
    weights = published / f"{wan_original.DENOISER}.safetensors"
    tensors = {f"model.{name}": tensor for name, tensor in load_file(weights).items()}
    torch.save({"generator_ema": tensors}, tmp_path / "self_forcing_dmd.pt")
    assert run(convert, model="wan2_1_1_3b", src=published, dst=tmp_path / "whole") == 0
    weights.unlink()
    flags = {"src": tmp_path / "self_forcing_dmd.pt", "base": published}
    assert run(convert, model="causal_wan_1_3b", dst=tmp_path / "causal", **flags) == 0
    _, params = load_generator("causal_wan", tmp_path / "causal")
    _, wanted = load_generator("wan", tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_everything_that_is_wrong_is_named_at_once(published, run, capsys):
    vae = published / wan_original.VAE
    tensors = torch.load(vae)
    del tensors[next(n for n in tensors if re.fullmatch(r"decoder\..*time_conv\.bias", n))]
    torch.save(tensors | {"encoder.stranger": torch.zeros(2)}, vae)
    (published / wan_original.T5).unlink()
    shutil.rmtree(published / wan_original.TOKENIZER)
    config = published / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "i2v"}))
    assert run(convert, model="wan2_1_1_3b", src=published, dry_run=True) == 2
    error = capsys.readouterr().err
    for fault in (
        "vae: decoder.up.0.upsample.time.bias",
        "vae: encoder.stranger: no rule takes it",
        f"{wan_original.T5} does not exist",
        f"{wan_original.TOKENIZER} holds no tokenizer",
        "Wan2.1-T2V/config.json: describes no model that the port knows",
        "model_type='i2v'",
    ):
        assert fault in error
    assert not any(word in error for word in ("scheduler", "no folder", ORBAX))


def test_code_in_a_torch_file_is_not_run(published, run, capsys):
    torch.save({"encoder.conv1.weight": print}, published / wan_original.VAE)
    assert run(convert, model="wan2_1_1_3b", src=published, dry_run=True) == 2
    assert f"{wan_original.VAE} cannot be read" in capsys.readouterr().err


def test_a_single_network_is_converted_from_its_file(published, tmp_path, run, capsys):
    flags = {"model": "wan_vae_original", "dst": tmp_path / "vae"}
    assert run(convert, src=published, **flags) == 2
    assert "name the file of weights" in capsys.readouterr().err
    tensors = read_tensors(published / wan_original.VAE)
    assert run(convert, src=published / wan_original.VAE, **flags) == 0
    assert f"{len(tensors)} tensors" in capsys.readouterr().out
