"""A published directory is converted whole or not at all."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap

import diffusers
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from converters import convert
from converters.registry import COMPONENTS
from converters.writer import Writer
from tts_jax.checkpoints import CheckpointError, flatten, load_orbax, load_parts
from tts_jax.generators import EMBEDDED, load_generator
from tts_jax.generators.pyramid_flow.vae import VAEConfig
from tts_jax.verifiers import load_verifier

VAE = "pyramid_flow_vae"
T5 = "t5_v1_1_xxl_encoder"


@pytest.fixture
def published(golden, tmp_path):
    """A VAE laid out as the published one is."""
    folder = tmp_path / "published"
    folder.mkdir()
    shutil.copy(golden(VAE) / "config.json", folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    shutil.copy(golden(VAE) / "weights.safetensors", weights)
    return folder


def parameters(folder, part, component, **options):
    fields = json.loads((folder / "config.json").read_text())["converted"]["sources"][part]
    like = COMPONENTS[component].abstract(COMPONENTS[component].read(fields))[1]
    return flatten(load_orbax(folder / "params", {part: like}, **options)[part])


def test_a_component_is_converted_by_itself(published, tmp_path, run, capsys):
    target = tmp_path / "ours"
    assert run(convert, model=VAE, src=published, dst=target) == 0
    assert "all accounted for" in capsys.readouterr().out
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "params"]
    entries = json.loads((target / "config.json").read_text())
    config = VAEConfig(**entries["component"][VAE])
    assert config == VAEConfig.from_reference(json.loads((published / "config.json").read_text()))
    params = parameters(target, VAE, VAE)
    wanted = load_file(published / "diffusion_pytorch_model.safetensors")
    np.testing.assert_array_equal(
        params["encoder.conv_in.kernel"],
        wanted["encoder.conv_in.conv.weight"].transpose(2, 3, 4, 1, 0),
    )
    assert len(params) == len(wanted)


def test_weights_may_be_named_and_may_be_of_torch(published, tmp_path, run):
    weights = published / "diffusion_pytorch_model.safetensors"
    assert run(convert, model=VAE, src=weights, dst=tmp_path / "named", dtype="bfloat16") == 0
    tensors = {n: torch.from_numpy(t).to(torch.bfloat16) for n, t in load_file(weights).items()}
    weights.unlink()
    torch.save({"state_dict": tensors, "step": 3}, published / "vae.pt")
    assert run(convert, model=VAE, src=published, dst=tmp_path / "torch", dtype="bfloat16") == 0
    named, torched = (parameters(tmp_path / name, VAE, VAE) for name in ("named", "torch"))
    for name, value in named.items():
        assert value.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(value, torched[name])


def write_vae(golden, folder, channels):
    """Writes the golden VAE with another number of latent channels."""
    folder.mkdir()
    fields = json.loads((golden / "config.json").read_text())
    fields |= {"encoder_out_channels": channels, "decoder_in_channels": channels}
    (folder / "config.json").write_text(json.dumps(fields))
    tensors = load_file(golden / "weights.safetensors")
    outputs = {"encoder.conv_out": 2, "quant_conv": 2, "post_quant_conv": 1}
    inputs = {"decoder.conv_in": 1, "quant_conv": 2, "post_quant_conv": 1}
    for name, tensor in tensors.items():
        layer, shape = name.removesuffix(".weight").removesuffix(".bias"), list(tensor.shape)
        layer = layer.removesuffix(".conv")
        if layer in outputs:
            shape[0] = outputs[layer] * channels
        if layer in inputs and len(shape) > 1:
            shape[1] = inputs[layer] * channels
        tensors[name] = np.resize(tensor, shape)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")


@pytest.fixture
def pyramid_flow(golden, tmp_path):
    """A whole published Pyramid-Flow directory, with tiny networks."""
    root = tmp_path / "pyramid-flow"
    shutil.copytree(golden("pyramid_flow_flux"), root / "diffusion_transformer_384p")
    (root / "diffusion_transformer_384p/io.safetensors").unlink()
    fields = json.loads((root / "diffusion_transformer_384p/config.json").read_text())
    write_vae(golden(VAE), root / "causal_video_vae", fields["in_channels"] // 4)
    sizes = {"vocab_size": 30, "num_heads": 2, "num_layers": 2, "d_ff": 12, "d_kv": 5}
    transformers.T5EncoderModel(
        transformers.T5Config(
            d_model=fields["joint_attention_dim"], feed_forward_proj="gated-gelu", **sizes
        )
    ).save_pretrained(root / "text_encoder_2", max_shard_size="4KB")
    transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            hidden_size=fields["pooled_projection_dim"],
            intermediate_size=16,
            num_attention_heads=1,
            num_hidden_layers=2,
            vocab_size=30,
        )
    ).save_pretrained(root / "text_encoder")
    for folder in ("tokenizer", "tokenizer_2"):
        (root / folder).mkdir()
        (root / folder / "tokenizer_config.json").write_text(json.dumps({"for": folder}))
    return root


def test_a_whole_pipeline_is_one_conversion(pyramid_flow, tmp_path, run, golden):
    target = tmp_path / "ours"
    flags = {"model": "pyramid_flow_flux_384p", "src": pyramid_flow, "dst": target}
    assert run(convert, **flags, dtype="bfloat16") == 0
    names = ["config.json", "params", "tokenizer", "tokenizer_2"]
    assert sorted(path.name for path in target.iterdir()) == names
    assert json.loads((target / "tokenizer_2/tokenizer_config.json").read_text()) == {
        "for": "tokenizer_2"
    }
    entry = json.loads((target / "config.json").read_text())["generator"]
    assert entry["name"] == "pyramid_flow"
    assert {"transformer", "vae", "clip", "t5", "sampler", "latent_factors"} <= set(entry)
    transformer = parameters(target, "transformer", "pyramid_flow_flux", partial=True)
    wanted = load_file(golden("pyramid_flow_flux") / "weights.safetensors")["proj_out.weight"]
    np.testing.assert_array_equal(transformer["out.kernel"], wanted.T.astype(ml_dtypes.bfloat16))
    t5 = parameters(target, "t5", T5, partial=True, dtype=np.float32)
    assert all(value.dtype == np.float32 for value in t5.values())


def test_faults_of_all_components_come_in_one_message(pyramid_flow, tmp_path, run, capsys):
    weights = pyramid_flow / "causal_video_vae/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["stranger"] = tensors.pop("quant_conv.conv.bias")
    weights.unlink()
    save_file(tensors, weights)
    shutil.rmtree(pyramid_flow / "tokenizer_2")
    shutil.rmtree(pyramid_flow / "text_encoder")
    config = pyramid_flow / "diffusion_transformer_384p/config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(fields | {"use_temporal_causal": False, "guidance_embeds": True}))
    target = tmp_path / "ours"
    flags = {"model": "pyramid_flow_flux_384p", "src": pyramid_flow, "dst": target}
    assert run(convert, **flags) == 2
    message = capsys.readouterr().err
    for part in (
        "6 problem(s)",
        "causal_video_vae: stranger: no rule",
        "causal_video_vae: quant.bias",
        "no folder text_encoder",
        "tokenizer_2 holds no tokenizer",
        "use_temporal_causal is False",
        "'guidance_embeds' is unknown",
    ):
        assert part in message
    assert not list(tmp_path.glob("ours*"))


def test_components_that_do_not_go_together_are_refused(pyramid_flow, make_t5, run, capsys):
    shutil.rmtree(pyramid_flow / "text_encoder_2")
    make_t5(pyramid_flow / "text_encoder_2", width=8)
    flags = {"model": "pyramid_flow_flux_384p", "src": pyramid_flow, "dry_run": True}
    assert run(convert, **flags) == 2
    assert "width of the text states: the denoiser wants" in capsys.readouterr().err


@pytest.fixture
def cogvideox(tmp_path, make_t5):
    """A whole published CogVideoX-2B directory, with tiny networks."""
    root = tmp_path / "cogvideox"
    diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=8,
    ).save_pretrained(root / "transformer")
    diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    ).save_pretrained(root / "vae")
    diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=3.0,
    ).save_pretrained(root / "scheduler")
    make_t5(root / "text_encoder", width=8)
    (root / "tokenizer").mkdir()
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["a", -1.0]]
    saved = {"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "unk_id": 2}}
    saved["model"]["vocab"] = pieces
    (root / "tokenizer/tokenizer.json").write_text(json.dumps(saved))
    return root


def test_a_converted_generator_loads_as_it_is_stored(cogvideox, tmp_path, run):
    flags = {"model": "cogvideox_2b", "src": cogvideox, "dst": tmp_path / "ours"}
    assert run(convert, **flags, dtype="bfloat16") == 0
    generator, params = load_generator("cogvideox", tmp_path / "ours", steps=7)
    sampler = generator.config.sampler
    assert (sampler.solver, sampler.snr_shift, sampler.steps) == ("ddim", 3.0, 7)
    assert set(params) == {"t5", "transformer", "vae"}
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}


def test_scheduler_settings_are_checked_too(cogvideox, tmp_path, run, capsys):
    flags = {"model": "cogvideox_2b", "src": cogvideox, "dst": tmp_path / "ours"}
    path = cogvideox / "scheduler/scheduler_config.json"
    fields = json.loads(path.read_text())
    for change, fault in (
        ({"prediction_type": "epsilon"}, "prediction_type='epsilon'"),
        ({"use_karras_sigmas": True}, "'use_karras_sigmas' is unknown"),
    ):
        path.write_text(json.dumps(fields | change))
        assert run(convert, **flags | {"dry_run": True}) == 2
        assert fault in capsys.readouterr().err


def test_a_checkpoint_of_another_size_of_the_family_is_refused(cogvideox, run, capsys):
    assert run(convert, model="cogvideox_5b", src=cogvideox, dry_run=True) == 2
    assert "use_rotary_positional_embeddings is False" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(published, golden, tmp_path, run):
    target = tmp_path / "ours"
    assert run(convert, model=VAE, src=published, dst=target, dry_run=True) == 0
    assert run(convert, model=VAE, src=golden("manifests") / f"{VAE}.json", dry_run=True) == 0
    assert not list(tmp_path.glob("ours*"))


def test_what_exists_is_not_overwritten(published, tmp_path, run, capsys):
    target = tmp_path / "ours"
    target.mkdir()
    assert run(convert, model=VAE, src=published, dst=target) == 0, "an empty folder may be given"
    before = (target / "config.json").stat().st_mtime_ns
    assert run(convert, model=VAE, src=published, dst=target) == 2
    assert "exists already" in capsys.readouterr().err
    assert (target / "config.json").stat().st_mtime_ns == before


def test_values_that_the_storage_type_cannot_hold_are_refused(published, tmp_path, run, capsys):
    weights = published / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["quant_conv.conv.bias"][0] = 1e5
    weights.unlink()
    save_file(tensors, weights)
    assert run(convert, model=VAE, src=published, dst=tmp_path / "half", dtype="float16") == 2
    assert "quant_conv.conv.bias holds values that are not finite as float16" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.glob("half*"))
    assert run(convert, model=VAE, src=published, dst=tmp_path / "brain", dtype="bfloat16") == 0


@pytest.mark.parametrize("moment", ["save", "finalize"])
def test_a_killed_conversion_leaves_nothing_that_looks_whole(published, tmp_path, run, moment):
    target = tmp_path / "ours"
    killed = f"""
        import os, signal
        from converters import convert
        from orbax.checkpoint import v1 as ocp
        done = ocp.partial.{moment}
        def kill(*args):
            done(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        ocp.partial.{moment} = kill
        convert.program(["", "--model={VAE}", "--src={published}", "--dst={target}"])
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(killed)], capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not target.exists()
    (left,) = tmp_path.glob("ours*")
    assert not (left / "config.json").exists()
    assert run(convert, model=VAE, src=published, dst=target) == 0
    assert list(tmp_path.glob("ours*")) == [target]
    assert parameters(target, VAE, VAE)


def test_memory_stays_below_that_of_a_component(tmp_path, make_t5):
    small = make_t5(tmp_path / "small")
    large = make_t5(tmp_path / "large", width=256, layers=24, mlp=1024, heads=4, vocabulary=8000)
    code = f"""
        from pathlib import Path
        from converters import convert

        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

        def run(source):
            flags = ["--model={T5}", f"--src={{source}}", f"--dst={{source}}_ours"]
            assert convert.program(["", *flags, "--dtype=bfloat16"]) == 0

        run("{small.folder}")
        before = peak()
        run("{large.folder}")
        print("bytes", peak() - before)
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    used = int(process.stdout.split()[-1])
    component = 2 * sum(tensor.size for tensor in large.tensors.values())
    assert component > 50e6
    assert used < 1.3 * component


def test_a_generator_loads_from_either_form_alike(tmp_path):
    generator, params = load_generator("pyramid_flow")
    with Writer(tmp_path / "ours", 1) as writer:
        for part, values in params.items():
            for name, value in flatten(values).items():
                writer.add(part, name, np.asarray(value))
        writer.copy([(EMBEDDED / "tokenizer.json", "tokenizer.json")])
        writer.finish(json.loads((EMBEDDED / "config.json").read_text()))
    again, found = load_generator("pyramid_flow", tmp_path / "ours")
    assert again.config == generator.config
    for part, values in params.items():
        for name, value in flatten(values).items():
            np.testing.assert_array_equal(flatten(found[part])[name], value)


def test_a_converted_verifier_loads(golden, tmp_path, run, capsys):
    source = tmp_path / "clip"
    shutil.copytree(golden("clip_readouts"), source)
    flags = {"model": "clip_vit_large_patch14", "src": source, "dst": tmp_path / "ours"}
    assert run(convert, **flags) == 2
    assert "holds no tokenizer" in capsys.readouterr().err
    ids = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    (source / "vocab.json").write_text(json.dumps(ids))
    (source / "merges.txt").write_text("#version: 0.2\n")
    assert run(convert, **flags, dtype="bfloat16") == 0
    verifier, params = load_verifier("clip", tmp_path / "ours")
    scale = load_file(source / "weights.safetensors")["logit_scale"]
    np.testing.assert_allclose(params["logit_scale"], scale, rtol=1e-2)
    assert params["logit_scale"].dtype == np.float32
    assert verifier.tokenizer.tokenize(["A"])[0][0, :3].tolist() == [0, 2, 1]


def test_a_converted_checkpoint_must_fit_the_model(published, tmp_path, run):
    target = tmp_path / "ours"
    assert run(convert, model=VAE, src=published, dst=target) == 0
    like = {"quant": {"bias": np.zeros(3), "gain": np.zeros(3)}}
    with pytest.raises(CheckpointError) as error:
        load_parts(target, {VAE: like})
    for part in (f"missing {VAE}.quant.gain", f"unexpected {VAE}.quant.kernel", "the model wants"):
        assert part in str(error.value)
    for file in sorted((target / "params").rglob("*")):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot be read"):
        parameters(target, VAE, VAE)


def test_wrong_flags_are_named(published, tmp_path, run, capsys):
    assert run(convert, model="nothing", src=published, dst=tmp_path) == 2
    assert run(convert, model=VAE, src=published) == 2
    assert run(convert, model=VAE, src=tmp_path / "nowhere", dst=tmp_path / "ours") == 2
    assert run(convert, model=VAE, src=tmp_path, dst=tmp_path / "ours") == 2
    messages = capsys.readouterr().err
    for part in (VAE, "--dst is missing", "nowhere does not exist", "config.json does not exist"):
        assert part in messages
