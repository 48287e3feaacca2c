"""A published Wan directory is converted whole, and Self-Forcing's denoiser together with it."""

import json

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from converters import convert
from tts_jax.generators import load_generator


@pytest.fixture
def published(tmp_path):
    """A whole published Wan2.1-T2V directory, with tiny networks."""
    root = tmp_path / "wan"
    diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=8,
        freq_dim=8,
        ffn_dim=8,
        num_layers=1,
    ).save_pretrained(root / "transformer")
    diffusers.AutoencoderKLWan(base_dim=2, num_res_blocks=1).save_pretrained(root / "vae")
    diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).save_pretrained(root / "scheduler")
    sizes = dict(vocab_size=8, d_model=8, d_kv=4, num_heads=2, num_layers=1, d_ff=8)
    config = transformers.UMT5Config(**sizes)
    transformers.UMT5EncoderModel(config).save_pretrained(root / "text_encoder")
    (root / "tokenizer").mkdir()
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0]]
    saved = {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 2}}
    saved["model"]["vocab"] = pieces
    (root / "tokenizer/tokenizer.json").write_text(json.dumps(saved))
    return root


@pytest.mark.parametrize("size, height", [("1_3b", 480), ("14b", 720)])
def test_a_converted_generator_loads_as_it_is_stored(published, tmp_path, run, size, height):
    flags = {"model": f"wan2_1_{size}", "src": published, "dst": tmp_path / "ours"}
    assert run(convert, **flags) == 0
    generator, params = load_generator("wan", tmp_path / "ours", steps=7)
    sampler = generator.config.sampler
    assert (sampler.solver, sampler.shift, sampler.steps) == ("unipc", 3.0, 7)
    assert sampler.height == height and set(params) == {"t5", "transformer", "vae"}
    assert generator.tokenizer.tokenize(["a"])[0].shape == (1, 512)


def test_scheduler_settings_are_checked_too(published, tmp_path, run, capsys):
    path = published / "scheduler/scheduler_config.json"
    fields = json.loads(path.read_text())
    for change, fault in (
        ({"prediction_type": "epsilon"}, "prediction_type='epsilon'"),
        ({"use_new_sigmas": True}, "'use_new_sigmas' is unknown"),
    ):
        path.write_text(json.dumps(fields | change))
        assert run(convert, model="wan2_1_1_3b", src=published, dry_run=True) == 2
        assert fault in capsys.readouterr().err


# What diffusers calls parts of the denoiser, and what Wan does.
ORIGINAL = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_out.0": "cross_attn.o",
    "attn1.to_": "self_attn.",
    "attn2.to_": "cross_attn.",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "proj_out": "head.head",
    "scale_shift_table": "modulation",
}


def original_name(name):
    for ours, theirs in ORIGINAL.items():
        name = name.replace(ours, theirs)
    return "head.modulation" if name == "modulation" else name


@pytest.fixture
def self_forcing(published, tmp_path):
    """The file of a denoiser trained from the tiny directory, as wrappers of modules leave it."""
    denoiser = load_file(published / "transformer/diffusion_pytorch_model.safetensors")
    other = {f"model.{original_name(n)}": torch.zeros_like(x) for n, x in denoiser.items()}
    wrapped = {
        f"model._fsdp_wrapped_module.{original_name(name)}".replace(
            ".ffn.", "._checkpoint_wrapped_module.ffn."
        ): tensor
        for name, tensor in denoiser.items()
    }
    wrapped["model._cls_pred_branch.0.weight"] = torch.zeros(2)
    path = tmp_path / "repository/checkpoints/self_forcing_dmd.pt"
    path.parent.mkdir(parents=True)
    torch.save({"generator": other, "generator_ema": wrapped, "critic": other}, path)
    return path


def test_self_forcing_is_converted_with_its_base(published, self_forcing, tmp_path, run):
    flags = {"src": self_forcing.parents[1], "base": published, "dst": tmp_path / "causal"}
    assert run(convert, model="causal_wan_1_3b", **flags) == 0
    assert run(convert, model="wan2_1_1_3b", src=published, dst=tmp_path / "whole") == 0
    generator, params = load_generator("causal_wan", tmp_path / "causal", frames=33, window=6)
    assert generator.config.chunks == (3, 3, 3) and generator.config.sampler.window == 6
    assert generator.tokenizer.tokenize(["a"])[0].shape == (1, 512)
    _, wanted = load_generator("wan", tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_what_is_missing_beside_self_forcing_is_named(published, self_forcing, run, capsys):
    def refused(**flags):
        assert run(convert, model="causal_wan_1_3b", dry_run=True, **flags) == 2
        return capsys.readouterr().err

    assert "name the folder of Wan2.1-T2V-1.3B or" in refused(src=self_forcing)
    whole = {"src": self_forcing, "base": published}
    state = torch.load(self_forcing)
    del state["generator_ema"]["model._fsdp_wrapped_module.head.head.bias"]
    torch.save(state, self_forcing)
    (published / "tokenizer/tokenizer.json").unlink()
    error = refused(**whole)
    assert "out.bias" in error and "tokenizer holds no tokenizer" in error
    self_forcing.rename(self_forcing.with_name("one.pt"))
    torch.save({}, self_forcing.with_name("other.pt"))
    folder = self_forcing.parent
    assert "name one file, of one.pt, other.pt" in refused(src=folder, base=published)
