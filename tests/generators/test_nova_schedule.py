"""NOVA's diffusions, mask schedule and guidance against the recorded ones."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tts_jax.generators.nova.schedule import (
    DDPM,
    FlowMatching,
    Passes,
    guidance_scales,
    guide,
    set_sizes,
)

TOLERANCE = dict(atol=1e-5, rtol=1e-5)
TABLE = dict(atol=1e-6, rtol=1e-6)


@pytest.fixture(scope="module")
def recorded(golden):
    folder = golden("nova_scheduler")
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "io.safetensors")


def diffusions(config):
    for name, fields in config.items():
        if name.startswith("ddpm"):
            yield name, DDPM.from_reference(fields)
        elif name.startswith("cfm"):
            yield name, FlowMatching.from_reference(fields)


def lengths(tensors, name):
    pattern = re.compile(rf"{name}/n(\d+)/timesteps")
    return [int(m[1]) for key in tensors if (m := pattern.fullmatch(key))]


def test_tables_are_those_of_the_original(recorded):
    config, tensors = recorded
    seen = 0
    for name, diffusion in diffusions(config):
        if f"{name}/betas" in tensors:
            np.testing.assert_allclose(diffusion.table(), tensors[f"{name}/betas"], **TABLE)
            levels = tensors[f"{name}/alphas_cumprod"]
            np.testing.assert_allclose(diffusion.levels, levels, **TABLE)
        for steps in lengths(tensors, name):
            wanted = tensors[f"{name}/n{steps}/timesteps"]
            if wanted.dtype == np.int64:
                np.testing.assert_array_equal(diffusion.timesteps(steps), wanted)
            else:
                np.testing.assert_allclose(diffusion.timesteps(steps), wanted, **TABLE)
            if f"{name}/n{steps}/sigmas" in tensors:
                wanted = tensors[f"{name}/n{steps}/sigmas"]
                np.testing.assert_allclose(diffusion.sigmas(steps), wanted, **TABLE)
            seen += 1
    assert seen


def test_steps_are_those_of_the_original(recorded):
    config, tensors = recorded
    seen = 0
    for name, diffusion in diffusions(config):
        for steps in lengths(tensors, name):
            case = f"{name}/n{steps}"
            if f"{case}/x_init" not in tensors:
                continue
            state = tensors[f"{case}/x_init"]
            table = diffusion.coefficients(steps)
            noises = tensors.get(f"{case}/noises", np.zeros((0, *state.shape), np.float32))
            assert np.count_nonzero(table.noise) == len(noises)
            for i, output in enumerate(tensors[f"{case}/model_outputs"]):
                state = table.state[i] * state + table.prediction[i] * output
                if i < len(noises):
                    state = state + table.noise[i] * noises[i]
                wanted = tensors[f"{case}/samples"][i]
                np.testing.assert_allclose(state, wanted, **TOLERANCE)
                state = wanted
                seen += 1
    assert seen


def test_noised_samples_are_those_of_the_original(recorded):
    config, tensors = recorded
    seen = 0
    for name, diffusion in diffusions(config):
        case = f"{name}/add_noise"
        if f"{case}/out" not in tensors:
            continue
        steps = tensors.get(f"{case}/timesteps", tensors.get(f"{case}/index"))
        found = diffusion.add_noise(tensors[f"{case}/x0"], tensors[f"{case}/noise"], steps)
        np.testing.assert_allclose(found, tensors[f"{case}/out"], **TOLERANCE)
        if f"{case}/timestep" in tensors:
            told = diffusion.levels[steps] * diffusion.num_train_timesteps
            np.testing.assert_allclose(told, tensors[f"{case}/timestep"], **TOLERANCE)
        seen += 1
    assert seen


def test_sets_are_those_of_the_original(recorded):
    _, tensors = recorded
    cases = [m for key in tensors if (m := re.fullmatch(r"mask/num_preds_(\d+)_(\d+)", key))]
    assert cases
    for case in cases:
        tokens, steps = int(case[1]), int(case[2])
        np.testing.assert_array_equal(set_sizes(tokens, steps), tensors[case[0]])
        assert set_sizes(tokens, steps).sum() == tokens


def test_guidance_is_that_of_the_original(recorded):
    config, tensors = recorded
    for name, fields in config["guidance"].items():
        case = f"guidance/{name}"
        kind = "text"
        for other in ("image", "spatiotemporal"):
            if f"{other}_guidance_scale" in fields:
                kind = other
        passes = Passes.of(kind)
        samples = tensors[f"{case}/out"].shape[0]
        found = jax.vmap(
            lambda x, fields=fields: guide(
                x,
                fields["guidance_scale"],
                least_norm=fields.get("guidance_renorm"),
                image_scale=fields.get("image_guidance_scale"),
                spatiotemporal_scale=fields.get("spatiotemporal_guidance_scale"),
            ),
            in_axes=1,
        )(tensors[f"{case}/pred"].reshape(passes.count, samples, *tensors[f"{case}/out"].shape[1:]))
        np.testing.assert_allclose(found, tensors[f"{case}/out"], **TOLERANCE)
        texts = tensors[f"{case}/text"]
        texts = texts.reshape(2, samples, *texts.shape[1:])
        expanded = passes.expand(jnp.asarray(texts)).reshape(-1, *texts.shape[2:])
        np.testing.assert_array_equal(expanded, tensors[f"{case}/text_expanded"])
        frames = [
            np.broadcast_to(tensors[f"{case}/pad"], tensors[f"{case}/x"].shape)
            if bare
            else tensors[f"{case}/x"]
            for bare in passes.bare
        ]
        np.testing.assert_array_equal(np.concatenate(frames), tensors[f"{case}/x_expanded"])


def test_growing_guidance_is_that_of_the_original(recorded):
    _, tensors = recorded
    cases = [m for key in tensors if (m := re.fullmatch(r"guidance/decay_min(\d+)_over(\d+)", key))]
    assert cases
    for case in cases:
        wanted = tensors[case[0]]  # the last is the whole scale
        found = guidance_scales(wanted[-1], float(case[1]), int(case[2]))
        np.testing.assert_allclose(found, wanted, **TOLERANCE)
        np.testing.assert_array_equal(guidance_scales(5.0, None, 3), [5.0] * 3)


@pytest.mark.parametrize("field", ["prediction_type", "variance_type", "timestep_spacing"])
def test_settings_that_no_checkpoint_has_are_refused(recorded, field):
    config, _ = recorded
    with pytest.raises(ValueError, match=field):
        DDPM.from_reference(config["ddpm_t2v"] | {field: "other"})
    with pytest.raises(ValueError, match="use_dynamic_shifting"):
        FlowMatching.from_reference({"use_dynamic_shifting": True})
