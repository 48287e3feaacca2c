"""The verification passes what is right, fails what is wrong, and says by how much."""

import shutil

import diffusers
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from converters import convert, verify

VAE = "pyramid_flow_vae"


def keep(folder, prefixes):
    """Leaves in a golden folder only the tensors that begin so."""
    path = folder / "io.safetensors"
    tensors = {n: t for n, t in load_file(path).items() if n.startswith(prefixes)}
    path.unlink()
    save_file(tensors, path)


@pytest.fixture
def recorded(golden, tmp_path):
    """A golden folder with the smallest calls only."""
    folder = tmp_path / "golden" / VAE
    shutil.copytree(golden(VAE), folder)
    keep(folder, ("enc_t1.", "dec_t1."))
    return folder


def spoil(weights):
    tensors = load_file(weights)
    name = "post_quant_conv.conv.bias"
    tensors[name] = tensors[name] + 0.01
    weights.unlink()
    save_file(tensors, weights)


def test_a_wrong_weight_fails_the_calls_that_use_it(recorded, run, capsys):
    assert run(verify, golden=recorded.parent) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("relative error" in line and "ok" in line for line in lines)
    spoil(recorded / "weights.safetensors")
    assert run(verify, golden=recorded) == 1
    for line in capsys.readouterr().out.splitlines():
        assert ("FAILED" in line) == ("dec_t1" in line)
    assert run(verify, golden=recorded, rtol=1.0) == 0


@pytest.mark.parametrize("name", ["pyramid_flow_flux", "pyramid_flow_mmdit"])
def test_recorded_denoiser_calls_pass(golden, tmp_path, run, capsys, name):
    folder = tmp_path / name
    shutil.copytree(golden(name), folder)
    keep(folder, "b_hist2.")
    assert run(verify, golden=folder) == 0
    assert "b_hist2.out.0" in capsys.readouterr().out


def test_recorded_calls_of_causal_wan_pass(golden, tmp_path, run, capsys):
    folder = tmp_path / "causal_wan_transformer"
    shutil.copytree(golden(folder.name), folder)
    keep(folder, ("x", "t", "context", "clean_x", "aug_t", "block3_window."))
    assert run(verify, golden=folder) == 0
    output = capsys.readouterr().out
    assert "teacher_forcing.out" in output and "block3_window.out" in output


def test_recorded_clip_embeddings_and_aesthetic_heads_pass(golden, run, capsys):
    assert run(verify, golden=golden("clip_readouts")) == 0
    output = capsys.readouterr().out
    for name in ("text_embeds", "image_embeds", "logits_per_image", "laion_linear", "laion_mlp"):
        assert name in output


def test_a_converted_checkpoint_is_verified_with_its_own_weights(recorded, tmp_path, run, capsys):
    assert run(convert, model=VAE, src=recorded, dst=tmp_path / "exact") == 0
    assert run(convert, model=VAE, src=recorded, dst=tmp_path / "half", dtype="bfloat16") == 0
    (recorded / "weights.safetensors").unlink()
    (recorded / "config.json").unlink()
    assert run(verify, golden=recorded, checkpoint=tmp_path / "exact") == 0
    assert run(verify, golden=recorded, checkpoint=tmp_path / "half") == 1
    assert run(verify, golden=recorded, checkpoint=tmp_path / "half", rtol=0.05) == 0
    assert run(verify, golden=recorded) == 2
    assert "config.json does not exist" in capsys.readouterr().err


def test_what_cannot_be_verified_is_said(recorded, tmp_path, run, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(verify, golden=empty) == 2
    assert run(verify, golden=tmp_path / "nowhere") == 2
    assert run(verify, golden=recorded, checkpoint=empty) == 2
    keep(recorded, "dec_t1.out")
    assert run(verify, golden=recorded) == 2
    keep(recorded, "none")
    assert run(verify, golden=recorded) == 2
    messages = capsys.readouterr().err
    for part in (
        "no golden folder",
        "nowhere is not a folder",
        "config.json does not exist",
        "has no tensor 'dec_t1.in'",
        "holds no input",
    ):
        assert part in messages


def record_t5():
    config = transformers.T5Config(
        vocab_size=30,
        d_model=12,
        d_kv=5,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    model = transformers.T5EncoderModel(config).eval()
    tokens, mask = torch.randint(0, 30, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    states = model(tokens, mask).last_hidden_state
    return model, {"a.in.input_ids": tokens, "a.in.attention_mask": mask, "a.out": states}


def record_clip():
    config = transformers.CLIPTextConfig(
        vocab_size=30,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=10,
        hidden_act="gelu",
        eos_token_id=29,
    )
    model = transformers.CLIPTextModelWithProjection(config).eval()
    tokens = torch.randint(0, 28, (2, 7))
    tokens[:, -1] = 29
    output = model(tokens)
    return model, {
        "a.in.input_ids": tokens,
        "a.out.last_hidden_state": output.last_hidden_state,
        "a.out.pooled": output.text_embeds,
    }


def record_cogvideox():
    model = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
        max_text_seq_length=5,
        sample_height=4,
        sample_width=6,
        sample_frames=9,
        use_rotary_positional_embeddings=False,
    )
    inputs = {
        "hidden_states": torch.randn(2, 3, 4, 4, 6),
        "encoder_hidden_states": torch.randn(2, 5, 8),
        "timestep": torch.tensor([999, 120]),
    }
    outputs = {"a.out": model(**inputs).sample}
    return model, {f"a.in.{name}": value for name, value in inputs.items()} | outputs


def record_latte():
    model = diffusers.LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        attention_bias=True,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        caption_channels=8,
        video_length=2,
    )
    inputs = {
        "hidden_states": torch.randn(2, 4, 2, 4, 6),
        "encoder_hidden_states": torch.randn(2, 5, 8),
        "timestep": torch.tensor([999, 120]),
    }
    outputs = {"a.out": model(**inputs).sample}
    return model, {f"a.in.{name}": value for name, value in inputs.items()} | outputs


def record_frame_vae():
    model = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2)
    latents = torch.randn(2, 4, 4, 6)
    return model, {"a.in": latents, "a.out": model.decode(latents).sample}


def record_wan():
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=12,
        num_layers=1,
    )
    inputs = {
        "hidden_states": torch.randn(2, 4, 3, 4, 6),
        "encoder_hidden_states": torch.randn(2, 5, 8),
        "timestep": torch.tensor([999, 120]),
    }
    outputs = {"a.out": model(**inputs).sample}
    return model, {f"a.in.{name}": value for name, value in inputs.items()} | outputs


def record_wan_vae():
    model = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=2,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0, 0.0],
        latents_std=[1.0, 1.0],
        scale_factor_temporal=2,
        scale_factor_spatial=2,
    )
    latents = torch.randn(1, 2, 2, 3, 4)
    return model, {"a.in": latents, "a.out": model.decode(latents).sample}


RECORDINGS = {
    "t5_v1_1_xxl_encoder": record_t5,
    "open_clip_bigg_text": record_clip,
    "cogvideox_2b_transformer": record_cogvideox,
    "wan2_1_t2v_1_3b_transformer": record_wan,
    "wan_vae": record_wan_vae,
    "latte_1_transformer": record_latte,
    "stable_diffusion_vae": record_frame_vae,
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_a_user_records_is_verified(tmp_path, run, capsys, name):
    torch.manual_seed(0)
    folder = tmp_path / name
    with torch.no_grad():
        model, tensors = RECORDINGS[name]()
        model.save_pretrained(folder / "published")
    save_torch({n: t.contiguous() for n, t in tensors.items()}, folder / "io.safetensors")
    flags = {"model": name, "src": folder / "published", "dst": tmp_path / "ours"}
    assert run(convert, **flags) == 0
    assert run(verify, golden=folder, checkpoint=tmp_path / "ours") == 0
    assert "a.out" in capsys.readouterr().out
