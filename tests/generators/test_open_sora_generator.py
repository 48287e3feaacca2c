"""Open-Sora as a generator: recorded runs of the original, given frames, and clips in a row."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import load_file

from converters.core import convert
from converters.open_sora_transformer import IGNORED, RULES
from converters.open_sora_vae import VAE_RULES
from tests.search.driver import fields_of, run
from tests.stand_ins import Brightness, Letters
from tts_jax.checkpoints import abstract_params, init_params
from tts_jax.generators.from_image import FromImage
from tts_jax.generators.full_sequence import NOISE_TAG
from tts_jax.generators.open_sora.generator import Condition, OpenSora
from tts_jax.generators.open_sora.parts import OpenSoraConfig
from tts_jax.generators.open_sora.sampler import Given, SamplerConfig, give_frames, parse_strategy
from tts_jax.generators.open_sora.text import texts_of_clips
from tts_jax.generators.open_sora.transformer import Transformer, TransformerConfig
from tts_jax.generators.open_sora.vae import SPATIAL_SCALE, OpenSoraVAE, OpenSoraVAEConfig
from tts_jax.generators.protocol import Generator
from tts_jax.language.t5 import T5Config, T5Encoder
from tts_jax.parallel import branch_mesh
from tts_jax.search import PRESETS, Search, load_preset
from tts_jax.search.models import outline_of
from tts_jax.solvers import noise
from tts_jax.verifiers.panel import Panel

TOLERANCE = 1e-4
PROMPT = "a b"
VIDEO = dict(frames=34, height=16, width=24)


@pytest.fixture(scope="module")
def recorded(golden):
    """Tensors of recorded runs, channels last."""
    found = load_file(golden("open_sora_scheduler") / "io.safetensors")
    return {
        n: np.moveaxis(x, -4, -1) if x.ndim >= 4 and ".in.y" not in n else x
        for n, x in found.items()
    }


@pytest.fixture(scope="module")
def fields(golden):
    return json.loads((golden("open_sora_scheduler") / "config.json").read_text())


@pytest.fixture(scope="module")
def original(golden, fields):
    """The sizes of the recorded networks, and of a text encoder."""
    vae = json.loads((golden("open_sora_vae") / "config.json").read_text())
    transformer = TransformerConfig.from_reference(fields["stdit3"])
    return {
        "t5": text_encoder(transformer.text_width),
        "transformer": transformer,
        "vae": OpenSoraVAEConfig.from_reference(vae),
    }


@pytest.fixture(scope="module")
def params(golden, original):
    """Recorded weights."""
    found = {}
    for part, folder, build, rules in (
        ("transformer", "open_sora_scheduler", Transformer, (RULES, IGNORED)),
        ("vae", "open_sora_vae", OpenSoraVAE, (VAE_RULES,)),
    ):
        tensors = load_file(golden(folder) / "weights.safetensors")
        found[part] = convert(tensors, abstract_params(build, original[part])[1], *rules)
    return found


def text_encoder(width):
    return T5Config(vocabulary=32, width=width, heads=2, head_size=4, layers=1, mlp=16)


def build(kind, parts, shape=None, **sampler):
    """A generator; of clips of another shape than its pixels' if one is given."""
    config = OpenSoraConfig
    if shape is not None:
        config = type("Recorded", (OpenSoraConfig,), {"latent_shape": shape})
    config = config(sampler=SamplerConfig(**sampler), **parts)
    return kind(config, {"t5": Letters(config.transformer.text_length)})


def tiny(kind, **sampler):
    """A generator for what depends on no network but, perhaps, the text encoder."""
    sizes = dict(heads=2, head_size=4, layers=1, mlp=8, text_width=8, text_length=12)
    parts = {
        "t5": text_encoder(8),
        "transformer": TransformerConfig(**sizes),
        "vae": OpenSoraVAEConfig.published(),
    }
    return build(kind, parts, **VIDEO | sampler)


@pytest.fixture(scope="module")
def texts():
    """Parameters of that text encoder."""
    return {"t5": init_params(T5Encoder, text_encoder(8))[1]}


def settings(case):
    names = {"steps": "steps", "cfg_scale": "guidance", "num_frames": "frames", "fps": "rate"}
    found = {ours: case[theirs] for theirs, ours in names.items()}
    return found | {side: int(case[side]) for side in ("height", "width")}


def error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.fixture
def follow(original, params, recorded, fields, monkeypatch):
    """`follow(name, per_segment)`: our states after each segment of a recorded run, and theirs."""

    def run(name, per_segment):
        case, starts = fields[name], recorded.get(f"{name}.in.z_before", recorded[f"{name}.in.z"])
        sampler = settings(case) | {"steps_per_segment": per_segment}
        generator = build(OpenSora, original, starts[0].shape, **sampler)
        steps, still = case["steps"], np.zeros((case["steps"], *starts.shape), np.float32)
        draws = recorded.get(f"{name}.noise", still)
        monkeypatch.setattr(noise, "fold_in", lambda key, data: data)  # the step's own number

        def advance(branch, condition, draws, segment, program):
            with monkeypatch.context() as patch:
                patch.setattr(noise, "normal", lambda key, shape: draws[key].reshape(shape))
                return generator.advance(params, condition, branch, 0, segment, program)

        first = jax.jit(lambda *inputs: advance(*inputs, 0, "first"))
        later = jax.jit(lambda *inputs: advance(*inputs, "next"))
        for i, start in enumerate(starts):
            text, mask = (recorded[f"{name}.in.{n}"][i] for n in ("y", "mask"))
            condition = Condition(text, (mask > 0)[None], jnp.float32(case["cfg_scale"]))
            branch = generator.init(params, condition, None)
            if "mask_strategy" in case:
                branch = generator.begin_with(branch, given_frames(recorded, case, i, start.shape))
            own = jnp.concatenate([start[None], draws[:, i]])
            wanted = [*recorded[f"{name}.model_z"][:, i], recorded[f"{name}.final"][i]]
            for segment in range(generator.num_segments):
                inputs = branch, condition, own
                branch = later(*inputs, jnp.int32(segment)) if segment else first(*inputs)
                done = min((segment + 1) * per_segment, steps)
                yield branch.latents, wanted[done]

    return run


def given_frames(recorded, case, sample, shape):
    prefix = f"cond.in.ref.{sample}."
    references = [recorded[name] for name in sorted(recorded) if name.startswith(prefix)]
    groups = parse_strategy(case["mask_strategy"][sample])
    return give_frames(groups, references, shape, loop=case["loop"], align=case["align"])


@pytest.mark.parametrize("name, per_segment", [("t2v", 6), ("cond", 2)])
def test_recorded_videos_are_made_again(follow, name, per_segment):
    """Without given frames; and with a first one that stays and last ones that are edited."""
    errors = [float(error(*states)) for states in follow(name, per_segment)]
    assert errors and max(errors) <= TOLERANCE, errors


def test_frames_are_those_of_the_original(original, params, recorded, fields):
    latents = recorded["t2v.final"][0]
    generator = build(OpenSora, original, latents.shape, **settings(fields["t2v"]))
    found = jax.jit(generator.decode)(params, latents)
    wanted = np.clip(recorded["t2v.video"][0] * 0.5 + 0.5, 0, 1)
    assert wanted.std() > 0.01 and error(found, wanted) <= TOLERANCE


class Told(OpenSora):
    """Prompts are all the same, but not those of its clips."""

    def encode_prompt(self, params, prompt):
        clips = self.config.sampler.clips
        text = jnp.linspace(0.1, 1.0, clips)[:, None, None] * jnp.ones((clips, 12, 4))
        return Condition(text, jnp.ones(text.shape[:2], bool), jnp.float32(7))


class Toy(Told):
    """A denoiser that compiles in no time, for what does not depend on which one it is."""

    def _estimate_clean(self, params, condition, latents, index):
        clean = jnp.sin(latents) + 0.1 * jnp.asarray(index, jnp.float32) + condition.text.mean()
        noisy = condition.noisy
        return clean if noisy is None else jnp.where(noisy[:, None, None, None], clean, latents)

    def read_end(self, params, latents):
        return 0.5 * latents[-self.config.sampler.overlap :]

    def decode(self, params, latents):
        return jax.nn.sigmoid(jnp.repeat(latents[..., :3], 2, axis=0))


def toy(**sampler):
    return tiny(Toy, **sampler)


def keys_of(generator, seed=0):
    """The keys of the path (0, 0, ...)."""
    keys = [jax.random.fold_in(jax.random.key(seed), 0)]
    while len(keys) < generator.num_segments:
        keys.append(jax.random.fold_in(keys[-1], 0))
    return keys


def grow(generator, keys, branch=None):
    """Branches after each of the segments."""
    condition = generator.encode_prompt(None, PROMPT)
    branch = generator.init(None, condition, keys[0]) if branch is None else branch
    branches = []
    first = jax.jit(lambda b, k: generator.advance(None, condition, b, k, 0))
    later = jax.jit(
        lambda b, k, s, program: generator.advance(None, condition, b, k, s, program),
        static_argnums=3,
    )
    for segment, key in enumerate(keys):
        program = generator.program(segment)
        branch = later(branch, key, jnp.int32(segment), program) if segment else first(branch, key)
        branches.append(branch)
    return branches


def test_it_is_a_generator_of_one_unit_for_each_clip():
    generator = toy(steps=7, steps_per_segment=3, clips=2)
    assert isinstance(generator, Generator)
    assert generator.units == (3, 3) and generator.num_segments == 6
    assert sum(generator.nfe(s) for s in range(6)) == 2 * 7 * 2
    assert [generator.program(s) for s in range(5)] == ["first", "next", "next", "clip", "next"]
    assert toy(guidance=1.0).nfe(1) == 5


def test_segments_of_any_length_give_the_same_video():
    videos = []
    for count in (6, 4):
        generator = toy(steps=6, steps_per_segment=count)
        videos.append(grow(generator, keys_of(generator))[-1].latents)
    np.testing.assert_allclose(*videos, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_only_the_sde_tells_siblings_apart(eta):
    """Children that part after segment 0 differ if, and only if, steps draw noise."""
    generator = toy(steps=4, steps_per_segment=2, eta=eta)
    assert generator.stochastic == bool(eta)
    keys = keys_of(generator)
    fork = [keys[0], jax.random.fold_in(keys[0], 1)]
    one, other = (grow(generator, ks)[-1].latents for ks in (keys, fork))
    assert bool((one != other).any()) == bool(eta)


def test_estimates_end_at_the_video():
    generator = toy(steps=8, steps_per_segment=3)
    known = generator.encode_prompt(None, PROMPT)
    branches = grow(generator, keys_of(generator))

    def look(segment, ahead):
        return generator.estimate(None, known, branches[segment], segment, ahead)

    np.testing.assert_array_equal(look(2, "committed"), branches[2].latents)
    np.testing.assert_array_equal(look(0, "clean"), branches[0].clean)
    # with as many steps as the ODE solver has left, the estimate is the video
    np.testing.assert_allclose(look(0, 4), branches[2].latents, atol=1e-5)
    assert generator.estimate_nfe(0, 4) == 8


def test_renoised_branches_have_the_level_they_go_back_to():
    generator = toy(steps=5, steps_per_segment=2)
    known, key, keys = generator.encode_prompt(None, PROMPT), jax.random.key(9), keys_of(generator)
    branches = grow(generator, keys)
    levels = generator.config.sampler.schedule.levels

    def renoise(depth, to, strength):
        return generator.renoise(None, known, branches[depth - 1], key, depth, to, strength)

    fresh = jax.random.normal(jax.random.fold_in(key, NOISE_TAG), generator.config.latent_shape)
    kept = (1 - levels[2]) / (1 - levels[4])
    added = np.sqrt(levels[2] ** 2 - (kept * levels[4]) ** 2)
    wanted = kept * branches[1].latents + added * fresh
    np.testing.assert_allclose(renoise(2, 1, 1.0).latents, wanted, atol=1e-5)
    wanted = branches[1].latents + 0.3 * levels[4] * fresh
    np.testing.assert_allclose(renoise(2, 2, 0.3).latents, wanted, atol=1e-5)


def test_given_frames_are_what_they_were_at_an_earlier_level():
    """One is kept; one, of ratio 0.5, is noised below timestep 500 and given back above it."""
    generator = toy(steps=6, steps_per_segment=2, eta=0.5, height=240, width=256)
    known, key, keys = generator.encode_prompt(None, PROMPT), jax.random.key(9), keys_of(generator)
    times = generator.config.sampler.schedule.timesteps
    assert times[2] > 500 > times[4]
    shape = generator.config.latent_shape
    given = jnp.arange(shape[0], dtype=jnp.float32)[:, None, None, None] + jnp.full(shape, 3.0)
    ratio = jnp.ones(shape[0]).at[jnp.array([0, 2])].set(jnp.array([0.0, 0.5]))
    branch = generator.begin_with(generator.init(None, known, key), Given(given, ratio))
    branches = grow(generator, keys, branch)
    for segment, branch in enumerate(branches):
        kept, drawn, edited = branch.latents[:3]
        assert (kept == 3).all() and np.ptp(drawn) > 0
        assert (edited == 5).all() == (segment == 0)
    for to in (1, 0):
        back = generator.renoise(None, known, branches[-1], key, 3, to, 1.0)
        again = back if to else generator.advance(None, known, back, keys[0], 0)
        kept, drawn, edited = again.latents[:3]
        assert (kept == 3).all() and np.ptp(drawn) > 0 and (edited == 5).all()


class Frames:
    """In the place of an autoencoder: each latent stands for three or four equal frames."""

    shift, scale = jnp.full(4, 2.0), jnp.full(4, 4.0)

    def __init__(self, spread=0.0):
        self.spread = jnp.float32(spread)

    def spatial_moments(self, pixels):
        small = jnp.pad(pixels, [(0, 0)] * 4 + [(0, 1)])
        return jnp.concatenate([small, jnp.broadcast_to(self.spread, small.shape)], -1)

    def temporal_moments(self, small):
        return jnp.concatenate([small + 1, jnp.broadcast_to(self.spread, small.shape)], -1)

    def decode(self, latents, frames):
        return latents[:, np.arange(frames) * 5 // 17]

    def encode(self, pixels):
        return pixels[:, -(-17 * np.arange(pixels.shape[1] * 5 // 17) // 5)]


class Framed(Told):
    """With that."""

    frames = Frames()

    def network(self, params, name):
        return self.frames if name == "vae" else super().network(params, name)


def test_an_image_is_the_first_frame_of_every_video():
    generator = tiny(Framed)
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    begun = FromImage(generator, image)
    assert begun.units == generator.units
    known = jax.tree.map(lambda x: x[0], begun.encode(None, [PROMPT]))
    shape = generator.config.latent_shape
    assert known.moments.shape == (1, 16, 24, 8)
    known = dataclasses.replace(known, moments=known.moments[:, : shape[1], : shape[2]])
    generator.frames = Frames(-100.0)  # no spread: both posteriors are their means
    moments = known.moments.at[..., 4:].set(-100.0)
    sure = dataclasses.replace(known, moments=moments)
    branch = begun.init(None, sure, jax.random.key(1))
    np.testing.assert_array_equal(branch.given.ratio, [0, *[1] * (shape[0] - 1)])
    wanted = (SPATIAL_SCALE * moments[0, ..., :4] + 1 - 2) / 4
    np.testing.assert_allclose(branch.given.latents[0], wanted, atol=1e-5)
    generator.frames = Frames()
    one, other = (begun.init(None, known, jax.random.key(i)).given.latents for i in range(2))
    assert (one[0] != other[0]).all() and not one[1:].any()


def test_one_frame_does_not_begin_with_an_image():
    image = np.zeros((16, 24, 3), np.uint8)
    with pytest.raises(ValueError, match="which the image is already"):
        FromImage(tiny(OpenSora, frames=1), image)


def test_later_clips_go_on_from_the_end_of_those_before():
    generator = toy(steps=2, steps_per_segment=1, clips=3)
    known = generator.encode_prompt(None, PROMPT)
    branches = grow(generator, keys_of(generator))
    videos = [
        generator.estimate(None, known, branch, segment) if segment % 2 else None
        for segment, branch in enumerate(branches)
    ]
    frames = generator.config.latent_shape[0]
    for clip, video in enumerate(videos[1::2]):
        assert len(video) == frames * (clip + 1)
        if clip:
            np.testing.assert_array_equal(video[:-frames], videos[2 * clip - 1])
            # the toy reads an end as half of it
            np.testing.assert_array_equal(video[-frames:][:5], 0.5 * video[:-frames][-5:])
    unfinished = generator.estimate(None, known, branches[2], 2)
    np.testing.assert_array_equal(unfinished, videos[1])
    assert len(generator.estimate(None, known, branches[2], 2, "clean")) == 2 * frames
    back = generator.renoise(None, known, branches[2], None, 3, 2, 1.0)
    np.testing.assert_array_equal(back.latents, branches[1].latents)
    with pytest.raises(ValueError, match="depth"):
        generator.renoise(None, known, branches[2], None, 3, 1, 1.0)


def test_the_end_of_a_clip_is_read_from_its_frames():
    """What is shared is shown once: 34 frames, and 17 of each later clip."""
    generator = tiny(Framed, clips=3)
    shape = generator.config.latent_shape
    clips = jax.random.uniform(jax.random.key(0), (3, *shape))
    np.testing.assert_array_equal(generator.read_end(None, clips[0]), clips[0, 5:])
    frames = generator.decode(None, clips.reshape(-1, *shape[1:]))
    wanted = jnp.concatenate(
        [
            generator.frames.decode(clips[:1], 34)[0],
            *(generator.frames.decode(clip[None], 34)[0, 17:] for clip in clips[1:]),
        ]
    )
    np.testing.assert_allclose(frames, wanted / 2 + 0.5, atol=1e-6)


def test_prompts_are_read_with_their_scores(texts):
    generator = tiny(OpenSora, motion=2.0, camera="pan left", clips=2)
    known = generator.encode_prompt(texts, "A <person> walks")
    (text,) = generator.tokenizer.texts
    assert (
        text == "a person walks aesthetic score: 6.5. motion score: 2.0. camera motion: pan left."
    )
    assert known.text.shape == (2, generator.tokenizer.length, generator.config.t5.width)
    silent = tiny(OpenSora, aesthetic=0.0)
    silent.encode_prompt(texts, "A dog")
    assert silent.tokenizer.texts == ["a dog"]


def test_clips_have_prompts_of_their_own(texts, golden):
    case = json.loads((golden("open_sora_scheduler") / "text_cases.json").read_text())
    wanted = case["loop_prompt"]["per_loop"]
    assert texts_of_clips(case["loop_prompt"]["input"], len(wanted)) == wanted
    generator = tiny(OpenSora, clips=3, aesthetic=0.0)
    known = generator.encode_prompt(texts, "|0|a b|2|c")
    assert generator.tokenizer.texts == ["a b", "c"]
    np.testing.assert_array_equal(known.text[0], known.text[1])
    assert (known.mask.sum(1) == jnp.array([4, 4, 2])).all()
    for wrong, part in (("|0|a|x|b", "number"), ("|0|a|2", "number"), ("|0|a|0|b", "rise")):
        with pytest.raises(ValueError, match=part):
            texts_of_clips(wrong, 2)


@pytest.mark.parametrize("clips", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_search_is_sound(preset, clips):
    eta = 0.5
    outline = outline_of(toy(steps=6, steps_per_segment=2, clips=clips, eta=eta))
    made = run(preset, outline, **fields_of(preset, outline))
    assert made.videos


@pytest.mark.parametrize(
    "preset",
    [
        dict(preset="random_linear", branches=2),
        dict(preset="search_over_paths"),
    ],
    ids=lambda preset: preset["preset"],
)
def test_searches_run_and_their_winners_are_made_again(preset):
    clips = 2 if preset["preset"] == "random_linear" else 1
    generator = toy(steps=4, steps_per_segment=2, eta=0.5, clips=clips)
    search = Search(
        generator,
        {},
        Panel([Brightness()]),
        {"brightness": {}},
        mesh=branch_mesh(1),
        exact=True,
    )
    result = search.run(PROMPT, load_preset(ConfigDict(preset)), seed=2)
    again = search.replay(PROMPT, result.best.path, seed=2)
    np.testing.assert_array_equal(again.frames, result.best.frames)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(height=4), "4 x 24"),
        (dict(clips=2, frames=40), "clips of 40 frames"),
        (dict(clips=2, frames=17), "clips of 17 frames"),
        (dict(clips=2, overlap=7), "share 7 latent frames"),
        (dict(clips=2, overlap=10), "share 10 latent frames"),
        (dict(steps_per_segment=0), "steps_per_segment is 0"),
        (dict(frames=9), "9 frames"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        toy(**settings)


def test_published_settings_survive_a_file():
    config = OpenSoraConfig.open_sora_1_2()
    assert config.latent_shape == (15, 30, 53, 4) and config.sampler.num_segments == 6
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    assert OpenSoraConfig.from_json({"name": "open_sora", **fields}) == config
