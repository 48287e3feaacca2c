"""Parity of the Pyramid-Flow VAE with the reference's recorded inputs, outputs and activations."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import ConversionError, check, convert
from converters.pyramid_flow import VAE_RULES
from tts_jax.checkpoints import abstract_params, flatten, init_params
from tts_jax.generators.pyramid_flow.vae import (
    CausalVideoVAE,
    LatentFactors,
    VAEConfig,
    decode_latent,
    to_uint8,
)
from tts_jax.nn.autoencoder import posterior_mode, posterior_sample

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


class Reference:
    """A golden folder: its converted model and its tensors, channels last."""

    def __init__(self, folder):
        self.config = VAEConfig.from_reference(json.loads((folder / "config.json").read_text()))
        graph, like = abstract_params(CausalVideoVAE, self.config)
        params = convert(load_file(folder / "weights.safetensors"), like, VAE_RULES)
        self.tensors = {
            name: np.moveaxis(x, 1, -1) if x.ndim >= 4 and x.dtype != np.uint8 else x
            for name, x in load_file(folder / "io.safetensors").items()
        }
        self.graph, self.params = graph, jax.tree.map(jnp.asarray, params)

    def __getitem__(self, name):
        return self.tensors[name]

    def run(self, function, *inputs):
        """Compiles and runs `function(vae, *inputs)`."""
        compiled = jax.jit(lambda params, *xs: function(nnx.merge(self.graph, params), *xs))
        return compiled(self.params, *inputs)

    def calls(self, prefix, suffix):
        """Names before `suffix` that start with `prefix`, those of single calls only."""
        ends = (n.removesuffix(suffix) for n in self.tensors if n.endswith(suffix))
        return [n for n in ends if n.startswith(prefix) and "." not in n]


@pytest.fixture(scope="module")
def reference(golden):
    return Reference(golden("pyramid_flow_vae"))


def assert_equal(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted, **TOLERANCE)


def test_encodes_as_the_reference(reference):
    names = [n for n in reference.calls("enc_t", ".moments") if n[5:].isdigit()]
    assert len(names) >= 2
    for name in names:
        moments = reference.run(CausalVideoVAE.encode, reference[f"{name}.in"])
        assert_equal(moments, reference[f"{name}.moments"])


def test_samples_as_the_reference(reference):
    moments, noise = reference["enc_t1.moments"], reference["enc_t1.eps"]
    assert_equal(posterior_sample(moments, noise), reference["enc_t1.sample"])
    assert_equal(posterior_mode(moments), moments[..., : noise.shape[-1]])


def test_decodes_as_the_reference(reference):
    names = [n for n in reference.calls("dec_t", ".out") if n[5:].isdigit()]
    assert len(names) >= 2
    for name in names:
        pixels = reference.run(CausalVideoVAE.decode, reference[f"{name}.in"])
        assert_equal(pixels, reference[f"{name}.out"])


def test_windows_give_what_the_whole_clip_gives(reference):
    encoded = [n.split("_chunk") for n in reference.calls("enc_", ".moments") if "_chunk" in n]
    decoded = [n.split("_chunk") for n in reference.calls("dec_", ".out") if "_chunk" in n]
    assert encoded and decoded
    for name, window in encoded:
        run = functools.partial(CausalVideoVAE.encode_chunked, window=int(window))
        moments = reference.run(run, reference[f"{name}.in"])
        assert_equal(moments, reference[f"{name}_chunk{window}.moments"])
    for name, window in decoded:
        run = functools.partial(CausalVideoVAE.decode_chunked, window=int(window))
        pixels = reference.run(run, reference[f"{name}.in"])
        assert_equal(pixels, reference[f"{name}_chunk{window}.out"])


def test_a_last_shorter_window_changes_nothing(reference):
    latents = reference["dec_t3.in"]
    latents = np.concatenate([latents, latents[:, ::-1]], axis=1)
    windowed = reference.run(lambda vae, z: vae.decode_chunked(z, 2), latents)
    assert_equal(windowed, reference.run(CausalVideoVAE.decode, latents))


@pytest.mark.parametrize("frames, window", [(2, 8), (9, 3)])
def test_frames_that_fill_no_latent_are_refused(reference, frames, window):
    with pytest.raises(ValueError, match="multiples of"):
        vae = nnx.merge(reference.graph, reference.params)
        vae.encode_chunked(jnp.zeros((1, frames, 16, 16, 3)), window)


def test_tiles_are_blended_in_the_order_of_the_reference(reference):
    tile = 32
    pixels = reference.run(lambda vae, z: vae.decode_tiled(z, tile, 1), reference["dec_tiled.in"])
    assert_equal(pixels, reference["dec_tiled.out"])
    moments = reference.run(lambda vae, x: vae.encode_tiled(x, tile, 8), reference["enc_tiled.in"])
    assert_equal(moments, reference["enc_tiled.moments"])


def test_an_input_of_one_tile_is_not_tiled(reference):
    pixels = reference.run(lambda vae, z: vae.decode_tiled(z, 256), reference["dec_t2.in"])
    assert_equal(pixels, reference["dec_t2.out"])


def test_8_bit_frames_are_those_of_the_pipeline(reference):
    names = [n.removesuffix(".in") for n in reference.tensors if n.startswith("decode_latent.")]
    names = [n for n in names if not n.endswith(".frames")]
    assert len(names) >= 2

    def decode(latents):  # compiled without the factors: one program serves both denoisers
        return reference.run(lambda vae, z: vae.decode_tiled(z, 256, 1), latents)

    for name in names:
        factors = getattr(LatentFactors, name.split(".")[1])()
        frames = decode_latent(decode, reference[f"{name}.in"], factors)
        assert frames.dtype == jnp.uint8
        wanted = reference[f"{name}.frames"].astype(int)
        assert np.abs(np.asarray(frames[0], int) - wanted).max() <= 1
        assert np.mean(frames[0] != wanted) < 1e-2


def test_grey_levels_are_truncated_and_clipped():
    pixels = jnp.array([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0])
    assert to_uint8(pixels).tolist() == [0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize("factors", [LatentFactors.flux(), LatentFactors.mmdit()])
def test_factors_undo_each_other_and_tell_the_first_frame_apart(factors):
    latents = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 4))
    scaled = factors.to_model(latents)
    assert_equal(factors.to_vae(scaled), latents)
    assert_equal(
        scaled[:, :1], (latents[:, :1] - factors.first_shift) * np.float32(factors.first_scale)
    )
    assert_equal(scaled[:, 1:], (latents[:, 1:] - factors.shift) * np.float32(factors.scale))


def encoder_activations(vae, pixels):
    """Every intermediate of the encoder under the reference's names, from the pieces it is of."""
    encoder, found = vae.encoder, {}
    x = found["conv_in"] = encoder.conv_in(pixels)
    for i, resnet in enumerate(encoder.down[0].resnets):
        x = found[f"down0.resnet{i}"] = resnet(x)
    if encoder.down[0].spatial is not None:
        found["down0.spatial"] = encoder.down[0].spatial(x)
    x = found["conv_in"]
    for i, block in enumerate(encoder.down):
        x = found[f"down{i}"] = block(x)
    attended = encoder.mid.attention(encoder.mid.resnets[0](x))
    found["mid_attn_bt"] = attended.reshape(-1, *attended.shape[2:])
    x = found["mid_block"] = encoder.mid(x)
    found["conv_out"] = encoder.conv_out(jax.nn.silu(encoder.norm_out(x)))
    return found


def decoder_activations(vae, latents):
    """Every intermediate of the decoder under the reference's names, from the pieces it is of."""
    decoder, found = vae.decoder, {}
    x = found["conv_in"] = decoder.conv_in(vae.post_quant(latents))
    x = found["mid_block"] = decoder.mid(x)
    for resnet in decoder.up[0].resnets:
        x = resnet(x)
    for name in ("spatial", "temporal"):
        if (layer := getattr(decoder.up[0], name)) is not None:
            x = found[f"up0.{name}"] = layer(x)
    x = found["mid_block"]
    for i, block in enumerate(decoder.up):
        x = found[f"up{i}"] = block(x)
    return found


@pytest.mark.parametrize(
    "call, activations", [("enc_t9", encoder_activations), ("dec_t2", decoder_activations)]
)
def test_activations_are_those_of_the_reference(reference, call, activations):
    found = reference.run(activations, reference[f"{call}.in"])
    wanted = {n: x for n, x in reference.tensors.items() if n.startswith(f"{call}.mid.")}
    assert wanted
    for name, x in wanted.items():
        assert_equal(found[name.removeprefix(f"{call}.mid.")], x)


def test_every_published_tensor_is_taken_once(golden):
    manifest = json.loads((golden("manifests") / "pyramid_flow_vae.json").read_text())
    _, like = abstract_params(CausalVideoVAE, VAEConfig.published())
    assert len(check(manifest, like, VAE_RULES)) == len(manifest) == len(flatten(like))
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    older = {}
    for name, shape in manifest.items():
        for new, old in old_names.items():
            name = name.replace(f".{new}.", f".{old}.")
        older[name] = shape
    check(older, like, VAE_RULES)
    with pytest.raises(ConversionError, match="filled by"):
        check(manifest | older, like, VAE_RULES)


def test_blocks_may_differ_in_number_and_in_what_they_resample():
    config = VAEConfig(
        latent_channels=4,
        encoder_channels=(8, 16),
        encoder_layers=(1, 1),
        encoder_spatial_down=(True, False),
        encoder_temporal_down=(False, True),
        encoder_groups=4,
        decoder_channels=(8, 12, 16),
        decoder_layers=(1, 2, 1),
        decoder_spatial_up=(True, False, False),
        decoder_temporal_up=(False, True, False),
        decoder_groups=2,
    )
    graph, params = init_params(CausalVideoVAE, config)
    vae = nnx.merge(graph, params)
    pixels = jax.random.normal(jax.random.key(0), (2, 5, 8, 6, 3))
    moments = jax.eval_shape(vae.encode, pixels)
    assert moments.shape == (2, 3, 4, 3, 8)
    latents = jax.eval_shape(posterior_mode, moments)
    assert jax.eval_shape(vae.decode, latents).shape == pixels.shape


def test_settings_that_no_checkpoint_has_are_refused(golden):
    config = json.loads((golden("pyramid_flow_vae") / "config.json").read_text())
    config |= {"interpolate": True, "decoder_act_fn": "relu"}
    with pytest.raises(ValueError, match=r"decoder_act_fn='relu'.*interpolate=True"):
        VAEConfig.from_reference(config)
