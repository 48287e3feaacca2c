import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from tts_jax.checkpoints import CheckpointError
from tts_jax.generators import load_generator, save_generator
from tts_jax.generators.protocol import Generator
from tts_jax.language.tokenizer import ASSET

PROMPT = "a red circle moving right"


@pytest.fixture(scope="module")
def generator(make_generator):
    return make_generator()


@pytest.fixture(scope="module")
def params(generator, randomise):
    return randomise(generator.init_params(), 0)


@pytest.fixture(scope="module")
def condition(generator, params):
    return jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))


@pytest.fixture(scope="module")
def steps(generator):
    """The two programs of a search: first unit, and any later one of a family [P, K]."""
    first = jax.jit(lambda p, c, b, k: generator.advance(p, c, b, k, 0))
    family = jax.vmap(
        jax.vmap(generator.advance, (None, None, None, 0, None)), (None, None, 0, 0, None)
    )
    return first, jax.jit(generator.advance), jax.jit(family)


def first_branch(generator, params, condition, steps, seed=0):
    key = jax.random.key(seed)
    return steps[0](params, condition, generator.init(params, condition, key), key)


def same(found, wanted, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, wanted)


def test_follows_the_protocol(generator, make_generator):
    assert isinstance(generator, Generator)
    first, *later = [generator.program(s) for s in range(4)]
    assert first not in later and len(set(later)) == 1
    assert [generator.nfe(s) for s in range(4)] == [8, 8, 8, 8]
    assert make_generator(guidance_first=0.0).nfe(1) == 4


def test_two_programs_serve_every_unit_and_every_guidance(generator, params, condition, steps):
    first, later, _ = steps
    branch = first_branch(generator, params, condition, steps)
    results = []
    for scale in (3.0, 1.5):
        scaled = dataclasses.replace(condition, guidance=jnp.full(2, scale, jnp.float32))
        done = first(params, scaled, branch, jax.random.key(0))
        for unit in range(1, generator.num_segments):
            done = later(params, scaled, done, jax.random.key(unit), unit)
        results.append(done.latents)
    assert first._cache_size() == later._cache_size() == 1
    assert np.isfinite(results[0]).all()
    assert (np.abs(results[0] - results[1]).max(axis=(1, 2, 3)) > 1e-3).all()


def test_a_unit_leaves_the_others_alone(generator, params, condition, steps):
    branch = first_branch(generator, params, condition, steps)
    done = steps[1](params, condition, branch, jax.random.key(1), 1)
    np.testing.assert_array_equal(done.latents[0], branch.latents[0])
    assert (done.latents[1] != 0).any()
    assert (done.latents[2:] == 0).all()


def test_siblings_are_what_they_are_alone(generator, params, condition, steps):
    parents = [first_branch(generator, params, condition, steps, seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *parents)
    keys = jax.random.split(jax.random.key(5), (2, 3))
    family = steps[2](params, condition, stacked, keys, 1)
    assert family.latents.shape[:2] == (2, 3)
    for p, parent in enumerate(parents):
        for k in range(3):
            alone = steps[1](params, condition, parent, keys[p, k], 1)
            same(jax.tree.map(lambda x, p=p, k=k: x[p, k], family), alone, atol=1e-4)
    assert len({family.latents[p, k, 1].tobytes() for p in range(2) for k in range(3)}) == 6


def multiplications(jaxpr):
    """Multiply-adds of all matrix products, loop bodies times their length."""
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += eqn.outvars[0].aval.size * int(np.prod([left[i] for i in contract]))
        repeat = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(eqn.params):
            total += repeat * multiplications(inner)
    return total


def test_siblings_share_the_work_on_their_history(generator, params, condition):
    branch = generator.init(params, condition, jax.random.key(0))
    family = jax.vmap(generator.advance, (None, None, None, 0, None))

    def cost(children):
        keys = jax.random.split(jax.random.key(0), children)
        return multiplications(jax.make_jaxpr(family)(params, condition, branch, keys, 1).jaxpr)

    one, two, nine = cost(1), cost(2), cost(9)
    assert nine - one == 8 * (two - one)
    context = one - (two - one)
    assert context > 0.4 * one


def test_without_guidance_the_negative_prompt_is_not_run(make_generator, params):
    plain = make_generator(guidance_first=0.0)
    condition = plain.encode(params, [PROMPT])
    assert condition.text.shape[:2] == (1, 1)
    guided = make_generator().encode(params, [PROMPT])
    assert guided.text.shape[:2] == (1, 2)
    np.testing.assert_array_equal(guided.text[:, 1], condition.text[:, 0])


def test_siblings_of_a_shared_root_differ_by_the_stage_jumps_alone(make_generator, params):
    one_stage = dict(stages=1, stage_range=(0.0, 1.0), steps_first=(1,), steps=(1,))
    for share in (False, True):
        generator = make_generator(share_root_noise=share, **one_stage)
        condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
        root = generator.init(params, condition, jax.random.key(0))
        parent = generator.advance(params, condition, root, jax.random.key(0), 0)
        advance = jax.jit(generator.advance)
        children = [advance(params, condition, parent, jax.random.key(k), 1) for k in (1, 2)]
        equal = (children[0].latents == children[1].latents).all()
        assert bool(equal) == share
        assert parent.noise.shape[0] == (generator.config.sampler.frames if share else 0)
        same(children[0].noise, parent.noise, atol=0)
        if share:
            other = generator.advance(params, condition, root, jax.random.key(9), 0)
            assert (other.noise != parent.noise).all()


def test_a_shared_root_still_gives_fresh_noise_at_the_jumps(make_generator, params):
    generator = make_generator(share_root_noise=True, frames=2)
    condition = jax.tree.map(lambda x: x[0], generator.encode(params, [PROMPT]))
    root = generator.init(params, condition, jax.random.key(0))
    noisy = dataclasses.replace(root, noise=jax.random.normal(jax.random.key(3), root.noise.shape))
    advance = jax.jit(generator.advance)
    children = [advance(params, condition, noisy, jax.random.key(k), 1) for k in (1, 2)]
    assert (children[0].latents[1] != children[1].latents[1]).any()


def test_a_prompt_is_encoded_the_same_alone_and_among_others(generator, params):
    prompts = ["a blue square standing still", PROMPT, "a green triangle moving up"]
    among = generator.encode(params, prompts)
    alone = generator.encode(params, [PROMPT])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[0]), among, alone)
    assert (among.text[0, 1] != among.text[2, 1]).any()
    np.testing.assert_array_equal(among.text[0, 0], among.text[2, 0])


@pytest.mark.parametrize("prompt", ["", "  ", "a red zebra moving right"])
def test_a_prompt_that_says_nothing_known_is_refused(generator, params, prompt):
    with pytest.raises(ValueError, match="zebra" if prompt.strip() else "empty"):
        generator.encode(params, [PROMPT, prompt])


def test_an_estimate_decodes_to_the_frames_so_far(generator, params, condition, steps):
    branch = first_branch(generator, params, condition, steps)
    branch = steps[1](params, condition, branch, jax.random.key(1), 1)
    decode = jax.jit(generator.decode)
    frames = [
        decode(params, generator.estimate(params, condition, branch, unit)) for unit in (0, 1)
    ]
    assert frames[0].shape == (1, 16, 16, 3) and frames[1].shape == (3, 16, 16, 3)
    assert frames[1].dtype == jnp.float32
    assert frames[1].min() >= 0 and frames[1].max() <= 1 and np.ptp(frames[1]) > 0
    # The VAE is causal: what was seen of the first unit stays what it was.
    np.testing.assert_allclose(frames[0][0], frames[1][0], atol=1e-5)


@pytest.fixture
def folder(tmp_path, generator, params):
    shutil.copy(ASSET, tmp_path / "tokenizer.json")
    save_generator(tmp_path, generator, params)
    return tmp_path


def test_a_saved_generator_loads_as_it_was(folder, generator, params):
    loaded, found = load_generator("pyramid_flow", folder, guidance=2.0, share_root_noise=True)
    sampler = loaded.config.sampler
    assert (sampler.guidance, sampler.share_root_noise) == (2.0, True)
    original = dataclasses.replace(sampler, guidance=3.0, share_root_noise=False)
    assert dataclasses.replace(loaded.config, sampler=original) == generator.config
    same(found, params, atol=2e-3)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


def damage_config(folder, change):
    path = folder / "config.json"
    entries = json.loads(path.read_text())
    change(entries["generator"])
    path.write_text(json.dumps(entries))


DAMAGES = {
    "missing folder": (lambda f: shutil.rmtree(f), "config.json does not exist"),
    "missing part": (lambda f: (f / "vae.safetensors").unlink(), "vae.safetensors does not exist"),
    "missing tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "truncated part": (
        lambda f: (f / "text.safetensors").write_bytes((f / "text.safetensors").read_bytes()[:900]),
        "cannot be read",
    ),
    "truncated config": (lambda f: (f / "config.json").write_text('{"generator": {'), "config"),
    "no generator": (lambda f: (f / "config.json").write_text("{}"), "generator"),
    "another generator": (lambda f: damage_config(f, lambda g: g.update(name="nova")), "nova"),
    "another shape": (
        lambda f: damage_config(f, lambda g: g["transformer"].update(double_blocks=2)),
        "has shape",
    ),
    "another width": (
        lambda f: damage_config(f, lambda g: g["text"].update(width=32)),
        "wide",
    ),
    "unknown part": (lambda f: damage_config(f, lambda g: g.update(audio={})), "audio"),
    "unknown field": (
        lambda f: damage_config(f, lambda g: g["sampler"].update(stride=1)),
        "stride",
    ),
    "missing field": (lambda f: damage_config(f, lambda g: g["text"].pop("heads")), "heads"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_in_one_line(folder, damage):
    change, reason = DAMAGES[damage]
    change(folder)
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_generator("pyramid_flow", folder)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused(folder):
    with pytest.raises(ValueError, match="pyramid_flow"):
        load_generator("nova", folder)
    with pytest.raises(ValueError, match="guidance_scale"):
        load_generator("pyramid_flow", folder, guidance_scale=3.0)
