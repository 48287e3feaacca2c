"""A published Latte directory is converted whole."""

import json

import diffusers
import pytest

from converters import convert
from tests.published import make_t5, write_t5_tokenizer
from tts_jax.generators import load_generator


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A whole published Latte-1 directory, with tiny networks."""
    root = tmp_path_factory.mktemp("latte") / "published"
    diffusers.LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=16,
        attention_bias=True,
        patch_size=2,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        caption_channels=8,
    ).save_pretrained(root / "transformer")
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
    ).save_pretrained(root / "vae")
    diffusers.DDIMScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False, steps_offset=1
    ).save_pretrained(root / "scheduler")
    make_t5(8).save_pretrained(root / "text_encoder")
    write_t5_tokenizer(root / "tokenizer")
    return root


def test_a_converted_generator_loads_as_it_is_stored(published, tmp_path, run):
    assert run(convert, model="latte_1", src=published, dst=tmp_path / "ours") == 0
    generator, params = load_generator("latte", tmp_path / "ours", steps=7, eta=0.5)
    sampler = generator.config.sampler
    assert (sampler.beta_end, sampler.offset, sampler.steps, sampler.eta) == (0.02, 1, 7, 0.5)
    assert set(params) == {"t5", "transformer", "vae"}
    assert generator.config.latent_shape == (16, 256, 256, 4)
    assert generator.tokenizer.tokenize(["a red circle"])[0].shape == (1, 120)


@pytest.mark.parametrize(
    "file, change, fault",
    [
        ("scheduler/scheduler_config", {"prediction_type": "sample"}, "prediction_type='sample'"),
        ("scheduler/scheduler_config", {"use_karras_sigmas": True}, "'use_karras_sigmas' is unkn"),
        ("transformer/config", {"double_self_attention": True}, "double_self_attention is True"),
        ("vae/config", {"tiles": 2}, "'tiles' is unknown"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_settings_are_checked(published, run, capsys, file, change, fault):
    path = published / f"{file}.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | change))
    try:
        assert run(convert, model="latte_1", src=published, dry_run=True) == 2
    finally:
        path.write_text(before)
    assert fault in capsys.readouterr().err
