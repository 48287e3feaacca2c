"""Parity of both denoisers with the reference's recorded activations, and what is shared."""

import json
import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.core import check, convert
from converters.registry import COMPONENTS
from tts_jax.checkpoints import flatten
from tts_jax.generators.pyramid_flow.denoiser import (
    PATCH,
    SINUSOID_WIDTH,
    Clip,
    Denoiser,
    attend_from_own,
    make_layout,
    patchify,
    unpatchify,
)
from tts_jax.generators.pyramid_flow.transformer import TransformerConfig
from tts_jax.nn import attention
from tts_jax.nn.embeddings import timestep_sinusoid
from tts_jax.search.flops import count_flops

TIGHT = {"atol": 2e-5, "rtol": 1e-5}
SINUSOID = {"atol": 2e-4, "rtol": 1e-5}  # float32 angles up to 1000 differ by some 6e-5


class Call(NamedTuple):
    """One list entry of a recorded case: our arguments, and where its results lie."""

    case: str
    entry: int
    entries: int
    latents: np.ndarray
    times: np.ndarray
    history: tuple[Clip, ...]
    text: np.ndarray
    text_mask: np.ndarray
    pooled: np.ndarray
    timestep: np.ndarray

    @property
    def clips(self):
        return (self.latents, self.times, self.history, self.text, self.text_mask)

    @property
    def inputs(self):
        return (*self.clips, self.pooled, self.timestep)

    @property
    def label(self):
        return f"{self.case} entry {self.entry}"


class Reference:
    """A golden folder: its converted model, its tensors, and the calls recorded in it."""

    def __init__(self, folder):
        model = COMPONENTS[folder.name]
        self.config = model.read(json.loads((folder / "config.json").read_text()))
        self.graph, like = model.abstract(self.config)
        weights = load_file(folder / "weights.safetensors")
        params = convert(weights, like, model.table(self.config))
        self.params = jax.tree.map(jnp.asarray, params)
        self.compiled = {}
        self.tensors = load_file(folder / "io.safetensors")
        cases = sorted({name.split(".")[0] for name in self.tensors})
        self.calls = [call for case in cases for call in self._calls(case)]
        assert self.calls

    def _calls(self, case):
        sample = f"{case}.in.sample."
        places = [n.removeprefix(sample).split(".") for n in self.tensors if n.startswith(sample)]
        entries = 1 + max(int(entry) for entry, _ in places)
        for entry in range(entries):
            count = sum(int(place[0]) == entry for place in places)
            clips = [self.latents(f"{sample}{entry}.{j}") for j in range(count)]
            starts = np.cumsum([0] + [clip.shape[1] for clip in clips])
            times = [start + np.arange(x.shape[1]) for start, x in zip(starts, clips, strict=False)]
            history = tuple(
                Clip(clip, time, np.ones(time.shape, bool))
                for clip, time in zip(clips[:-1], times[:-1], strict=True)
            )
            rows = (
                self.tensors[f"{case}.in.{name}"][entry::entries]
                for name in (
                    "encoder_hidden_states",
                    "encoder_attention_mask",
                    "pooled_projections",
                    "timestep",
                )
            )
            yield Call(case, entry, entries, clips[-1], times[-1], history, *rows)

    def latents(self, name):
        return np.moveaxis(self.tensors[name], 1, -1)

    def middle(self, call, name):
        """A recorded intermediate value, or None if this case has none of that name."""
        return self.tensors.get(f"{call.case}.mid.{name}")

    def own_rows(self, call, name):
        """The rows of this list entry in an intermediate value with one row per text."""
        return self.middle(call, name)[call.entry :: call.entries]

    def own_tokens(self, call, name, with_text=False):
        """The tokens of this list entry in one whose entries follow each other, or None."""
        value = self.middle(call, name)
        if value is None:
            return None
        sizes = [
            tokens_of(other) + with_text * other.text.shape[1]
            for other in self.calls
            if other.case == call.case
        ]
        stops = np.cumsum(sizes)
        assert value.shape[1] == stops[-1]
        return value[:, stops[call.entry] - sizes[call.entry] : stops[call.entry]]

    def run(self, function, *inputs):
        """Compiles `function(transformer, *inputs)`, once for all tests, and runs it."""
        if function not in self.compiled:
            self.compiled[function] = jax.jit(
                lambda params, *xs: function(nnx.merge(self.graph, params), *xs)
            )
        return self.compiled[function](self.params, *inputs)

    def velocity(self, call, temb=None):
        """Velocity of a call, from a conditioning vector of its own or the given one."""
        if temb is None:
            temb = self.run(Denoiser.embed_condition, call.timestep, call.pooled)
        return self.run(Denoiser.denoise, *call.clips, temb)

    def longest_call(self):
        """The call with most history clips."""
        return max(self.calls, key=lambda call: (len(call.history), tokens_of(call)))


def is_flux(model):
    return isinstance(model.config, TransformerConfig)


def depth(stack):
    """Blocks of a stack."""
    return jax.tree.leaves(stack)[0].shape[0]


def tokens_of(call):
    clips = [clip.latents for clip in call.history] + [call.latents]
    return sum(int(np.prod(x.shape[1:4])) // PATCH**2 for x in clips)


@pytest.fixture(scope="module", params=["pyramid_flow_flux", "pyramid_flow_mmdit"])
def reference(golden, request):
    return Reference(golden(request.param))


def close(actual, desired, label, atol, rtol):
    np.testing.assert_allclose(actual, desired, atol=atol, rtol=rtol, err_msg=label)


def test_the_velocity_is_the_recorded_one(reference):
    for call in reference.calls:
        recorded = reference.latents(f"{call.case}.out.{call.entry}")
        tolerance = TIGHT if call.timestep.max() < 300 else SINUSOID
        close(reference.velocity(call), recorded, call.label, **tolerance)
        temb = reference.own_rows(call, "temb")
        close(reference.velocity(call, temb), recorded, f"{call.label}, given temb", **TIGHT)


def test_one_call_does_it_all(reference):
    call = reference.longest_call()
    velocity = reference.run(Denoiser.__call__, *call.inputs)
    assert velocity.dtype == jnp.float32
    recorded = reference.latents(f"{call.case}.out.{call.entry}")
    close(velocity, recorded, call.label, **SINUSOID)


def test_embeddings_are_the_recorded_ones(reference):
    def embed(model, latents, history, text, pooled, timestep):
        tokens = model.embed_latents(latents, history)
        return {
            "sinusoid": timestep_sinusoid(timestep, SINUSOID_WIDTH),
            "temb": model.embed_condition(timestep, pooled),
            "context": model.text_embed(text),
            "tokens": jnp.concatenate(tokens, axis=1),
        }

    for call in reference.calls:
        found = reference.run(
            embed, call.latents, call.history, call.text, call.pooled, call.timestep
        )
        for name in ("sinusoid", "temb"):
            close(found[name], reference.own_rows(call, name), f"{call.label} {name}", **SINUSOID)
        close(found["context"], reference.own_rows(call, "context"), call.label, **TIGHT)
        tokens = reference.own_tokens(call, "tokens")
        if tokens is not None:
            close(found["tokens"], tokens, f"{call.label} tokens", **TIGHT)


def test_positions_and_masks_are_the_recorded_ones(reference):
    names = set()
    for call in reference.calls:
        lay_out = jax.jit(partial(make_layout, call.latents.shape, config=reference.config))
        layout = lay_out(call.times, call.history, call.text_mask)
        length = call.text.shape[1]
        cos, sin = (
            np.concatenate(pair) for pair in zip(layout.context_rope, layout.own_rope, strict=True)
        )
        ids = reference.middle(call, f"ids{call.entry}")
        half = [axis // 2 for axis in reference.config.rope_axes]
        angles = np.concatenate(
            [
                ids[:, axis, None].astype(np.float64) * 10000.0 ** -(np.arange(n) / n)
                for axis, n in enumerate(half)
                if n
            ],
            axis=-1,
        )
        close(cos[length:], np.cos(angles), f"{call.label} ids", **TIGHT)
        close(sin[length:], np.sin(angles), f"{call.label} ids", **TIGHT)
        for name, table in (("cos", cos), ("sin", sin)):
            recorded = reference.middle(call, f"rope{call.entry}.{name}")
            if recorded is not None:
                names.add(name)
                close(table, recorded, f"{call.label} {name}", **TIGHT)
        recorded = reference.middle(call, f"mask{call.entry}")
        if recorded is not None:
            names.add("mask")
            context, own = layout.context_mask.pairs(), layout.own_mask.pairs()
            context = np.pad(context, ((0, 0), (0, 0), (0, own.shape[2] - context.shape[2])))
            mask = np.concatenate([context, own], axis=1)
            np.testing.assert_array_equal(mask, recorded.astype(bool), err_msg=call.label)
    assert names == {"cos", "sin", "mask"}


def test_every_block_gives_the_recorded_tokens(reference):
    def trace(model, latents, times, history, text, text_mask, temb):
        layout = make_layout(latents.shape, times, history, text_mask, model.config)
        x = (model.text_embed(text), *model.embed_latents(latents, history))
        found, stack = {}, model.double_blocks if is_flux(model) else model.blocks
        count = depth(stack)
        for i in range(count):
            x = jax.tree.map(lambda leaf, i=i: leaf[i], stack)(*x, temb, layout)
            found[f"block{i}.text"] = x[0]
            found[f"block{i}.image"] = jnp.concatenate(x[1:], axis=1)
        if is_flux(model):
            x = (jnp.concatenate(x[:2], axis=1), x[2])
            for i in range(depth(model.single_blocks)):
                x = jax.tree.map(lambda leaf, i=i: leaf[i], model.single_blocks)(*x, temb, layout)
                found[f"single{i}.joint"] = jnp.concatenate(x, axis=1)
            own = x[1]
        else:
            own = found[f"block{count}.image"] = model.last_block(*x, temb, layout)
        found["norm_out"] = model.normalise_out(own, temb)
        return found

    seen = set()
    for call in reference.calls:
        found = reference.run(trace, *call.clips, reference.own_rows(call, "temb"))
        for name, value in found.items():
            if reference.middle(call, name) is None:
                continue
            seen.add(name)
            if name.endswith(".text"):
                recorded = reference.own_rows(call, name)
            else:
                recorded = reference.own_tokens(call, name, with_text=name.endswith(".joint"))
                recorded = recorded[:, -value.shape[1] :]
            close(value, recorded, f"{call.label} {name}", **TIGHT)
    expected = {"block0.text", "block0.image", "norm_out"}
    last = "single0.joint" if is_flux(reference) else f"block{reference.config.blocks - 1}.image"
    assert expected | {last} <= seen


def test_padding_frames_of_the_history_change_nothing(reference):
    call = reference.longest_call()
    random = np.random.default_rng(0)

    def padded(clip, count, time):
        noise = 3 * random.standard_normal((clip.latents.shape[0], count, *clip.latents.shape[2:]))
        return Clip(
            np.concatenate([noise.astype(np.float32), clip.latents], axis=1),
            np.concatenate([np.full(count, time), clip.times]),
            np.concatenate([np.zeros(count, bool), clip.valid]),
        )

    first, *rest = call.history
    only_padding = padded(first, 2, 0)
    only_padding = only_padding._replace(valid=np.zeros_like(only_padding.valid))
    history = (only_padding, padded(first, 3, -2), *(padded(clip, 1, 9) for clip in rest))
    velocity = reference.velocity(call)
    again = reference.velocity(call._replace(history=history))
    close(again, velocity, call.label, atol=1e-5, rtol=0)


def test_padding_of_the_text_changes_nothing(reference):
    def replaced(text, mask):
        return np.where(
            mask[..., None] == 0, 5 * np.cos(np.arange(text.size)).reshape(text.shape), text
        )

    calls = [call for call in reference.calls if (call.text_mask == 0).any()]
    assert calls
    for call in calls:
        other = call._replace(text=replaced(call.text, call.text_mask).astype(np.float32))
        velocity = reference.velocity(call)
        again = reference.velocity(other)
        close(again, velocity, call.label, atol=1e-5, rtol=0)


def test_a_prompt_of_padding_only_gives_numbers(reference):
    for call in reference.calls:
        empty = call._replace(text_mask=np.zeros_like(call.text_mask))
        velocity = reference.velocity(empty)
        assert np.isfinite(velocity).all(), call.label


def family(reference, call, children):
    """The call for `children` siblings whose own latents differ, and these latents."""

    def run(params, latents):
        model = nnx.merge(reference.graph, params)
        rest = call.inputs[1:]
        return jax.vmap(lambda x: model(x, *rest))(latents)

    noise = np.random.default_rng(1).standard_normal((children, *call.latents.shape))
    return run, noise.astype(np.float32)


def test_siblings_compute_their_context_once(reference):
    call = reference.longest_call()
    config = reference.config
    flops = {}
    for children in (1, 4):
        run, latents = family(reference, call, children)
        flops[children] = count_flops(run, reference.params, latents)

    batch, frames, height, width, _ = call.latents.shape
    own = frames * height * width // PATCH**2
    joint = tokens_of(call) + call.text.shape[1]
    kernels = {k: v.size for k, v in flatten(reference.params).items() if k.endswith(".kernel")}
    of_own = re.compile(r"latent_embed|out|(double_|last_)?(block|blocks)\.image|single_blocks")
    per_token = sum(
        size
        for name, size in kernels.items()
        if of_own.match(name) and ".modulation." not in name and "out_modulation" not in name
    )
    queries = re.compile(r".*(image|single_blocks)\.attention\.q\.kernel")
    blocks = sum(size for name, size in kernels.items() if queries.fullmatch(name))
    blocks //= config.width**2
    attention = 2 * own * joint * config.width * blocks
    assert (flops[4] - flops[1]) / 3 == 2 * batch * (own * per_token + attention)


def test_a_sibling_gets_what_it_gets_alone(reference):
    call = reference.longest_call()
    run, latents = family(reference, call, 3)
    together = jax.jit(run)(reference.params, latents)
    for child, own in zip(together, latents, strict=True):
        alone = reference.velocity(call._replace(latents=own))
        close(child, alone, call.label, **TIGHT)


def test_gradients_reach_every_parameter(reference):
    call = reference.longest_call()

    def loss(params):
        return jnp.mean(nnx.merge(reference.graph, params)(*call.inputs) ** 2)

    gradients = flatten(jax.jit(jax.grad(loss))(reference.params))
    assert all(np.isfinite(g).all() for g in gradients.values())
    idle = {name for name, g in gradients.items() if not np.abs(g).max() > 0}
    unused = re.compile(r"last_block\.text\.attention\.q(_norm)?\.\w+")  # in the original too
    assert idle == {name for name in gradients if unused.fullmatch(name)}


def test_patches_are_put_back_where_they_were(reference):
    latents = reference.longest_call().latents
    tokens = patchify(jnp.asarray(latents))
    np.testing.assert_array_equal(unpatchify(tokens, *latents.shape[1:4]), latents)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("pyramid_flow_flux", 1_972_059_200),
        ("pyramid_flow_mmdit", 2_028_334_144 + 192 * 192 * 1536),  # and the position table
    ],
)
def test_every_published_tensor_is_taken_once(golden, name, parameters):
    manifest = json.loads((golden("manifests") / f"{name}.json").read_text())
    model = COMPONENTS[name]
    config = model.published()
    _, like = model.abstract(config)
    steps = check(manifest, like, model.table(config))
    assert len(steps) == len(manifest)
    assert sum(leaf.size for leaf in flatten(like).values()) == parameters


def test_own_tokens_see_by_the_kernel_what_they_see_without_and_nothing_is_joined(monkeypatch):
    for name in ("TILE_Q", "TILE_K"):
        monkeypatch.setattr(attention, name, 128)
    config = TransformerConfig(
        heads=2,
        head_size=16,
        double_blocks=1,
        single_blocks=1,
        latent_channels=4,
        rope_axes=(4, 6, 6),
        text_width=8,
        pooled_width=8,
    )
    valid = jnp.array([False, True, True])
    past = Clip(jnp.zeros((2, 3, 4, 8, 4)), jnp.arange(3), valid)
    text_mask = jnp.arange(10) < jnp.array([[4], [9]])
    layout = make_layout((2, 2, 8, 16, 4), jnp.array([3, 4]), [past], text_mask, config)
    lengths = layout.context_rope.cos.shape[0], layout.own_rope.cos.shape[0]
    context, own = (
        jax.random.normal(jax.random.key(n), (3, 2, n, config.heads, config.head_size))
        for n in lengths
    )
    plain, split = (
        partial(attend_from_own, layout=layout, implementation=name) for name in ("xla", "splash")
    )
    expected = plain(context, own)
    np.testing.assert_allclose(jax.jit(split)(context, own), expected, rtol=1e-5, atol=1e-5)
    joint = f"[2,{sum(lengths)},2,16]"
    for attend, joins in ((plain, True), (split, False)):
        assert (joint in str(jax.make_jaxpr(attend)(context, own))) == joins
