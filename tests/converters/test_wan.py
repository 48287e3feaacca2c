"""A published Wan directory is converted whole."""

import json

import diffusers
import pytest
import transformers

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
