"""Generators whose denoiser is known exactly, for tests of searches against theory.

A video is a Gaussian mixture in few dimensions: whole, as of full-sequence models, sampled by
variance-preserving diffusion; or unit by unit, each mixture around a share of the unit before, as
of autoregressive models, sampled by linear flow matching. Every segment is a block of stochastic
steps and ends with the denoiser call at its last state, but for the last of a unit.

K components  T frames  H W frame size  C channels.
"""

import dataclasses
import importlib
import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from tts_jax.parallel import branch_mesh
from tts_jax.search import Search, load_preset
from tts_jax.solvers import diffusion, flow_matching, noise
from tts_jax.verifiers.panel import Panel

# Frames are 1/2 + latents / RANGE.
RANGE = 24.0
# Children are fold_in(key, index); no child has this index.
NOISE_TAG = 0xFFFFFFFF
_LINE = flow_matching.PyramidSchedule(stages=1, stage_range=(0.0, 1.0))


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture of equal spherical deviations.

    Attributes:
      weights: [K], of sum 1.
      means: [K, T, H, W, C].
      deviation: of each component.
    """

    weights: np.ndarray
    means: np.ndarray
    deviation: float

    @classmethod
    def random(cls, components: int = 3, frames: int = 2, spread: float = 1.0, seed: int = 0):
        """Some mixture of frames of 2x2x3."""
        rng = np.random.default_rng(seed)
        weights = rng.uniform(1, 2, components)
        means = spread * rng.standard_normal((components, frames, 2, 2, 3))
        return cls(weights / weights.sum(), means, 0.5)

    def tilted(self, direction: np.ndarray, strength: float) -> "Mixture":
        """The mixture times exp(strength * <direction, z>), normalised."""
        along = (self.means * direction).sum((1, 2, 3, 4))
        moved = strength * self.deviation**2 * direction
        logs = np.log(self.weights) + strength * along
        logs += 0.5 * (strength * self.deviation) ** 2 * (direction**2).sum()
        weights = np.exp(logs - logs.max())
        return Mixture(weights / weights.sum(), self.means + moved, self.deviation)

    def mean(self, direction: np.ndarray) -> float:
        """Expected <direction, z>."""
        return float(self.weights @ (self.means * direction).sum((1, 2, 3, 4)))

    def second(self, direction: np.ndarray) -> float:
        """Expected <direction, z>^2."""
        along = (self.means * direction).sum((1, 2, 3, 4))
        return float(self.weights @ along**2 + self.deviation**2 * (direction**2).sum())


def posterior_mean(params, centre, x, signal, sigma):
    """E[z | signal * z + sigma * n = x] for the mixture around a centre; all [T, H, W, C]."""
    means, variance = params["means"] + centre, params["deviation"] ** 2
    total = signal**2 * variance + sigma**2
    rest = x - signal * means
    chances = jax.nn.softmax(jnp.log(params["weights"]) - (rest**2).sum((1, 2, 3, 4)) / 2 / total)
    each = means + signal * variance / total * rest
    return jnp.tensordot(chances, each, 1)


class Diffusion:
    """Levels and steps of variance-preserving diffusion, by a cosine."""

    def __init__(self, steps: int):
        """From noise to clean in so many steps."""
        self.levels = np.sin(np.pi / 2 * np.arange(steps + 1) / steps) ** 2

    def scales(self, level):
        """Factors of clean latents and noise."""
        return jnp.sqrt(level), jnp.sqrt(1 - level)

    def step(self, x, clean, level, after, normals, eta):
        """A stochastic step."""
        parts = diffusion.split(x, clean, level, "clean")
        return diffusion.sde_step(parts, level, after, normals, eta)

    def again(self, x, level, earlier, normals):
        """Back to an earlier level."""
        return diffusion.noise_again(x, level, earlier, normals)


class Flow:
    """Levels and steps of linear flow matching, evenly spaced."""

    def __init__(self, steps: int):
        """From noise to clean in so many steps."""
        self.levels = np.linspace(1, 0, steps + 1)

    def scales(self, level):
        """Factors of clean latents and noise."""
        return 1 - level, level

    def step(self, x, clean, level, after, normals, eta):
        """A stochastic step."""
        velocity = (x - clean) / level
        return flow_matching.sde_step(_LINE, 0, x, velocity, level, after, normals, eta)

    def again(self, x, level, earlier, normals):
        """Back to an earlier level."""
        return flow_matching.noise_again(_LINE, x, (0, level), (0, earlier), normals)


@dataclass(frozen=True, eq=False)
class Exact:
    """A mixture as a generator; see the protocol.

    Attributes:
      mixture: of one unit.
      process: `Diffusion` or `Flow`.
      num_units: units of a video.
      blocks: segments of a unit.
      steps: denoising steps of a segment.
      follow: share of the unit before that a unit's mixture lies around.
      eta: of the stochastic step.
      counts: if not None, denoiser calls made, by "calls"; they are counted as they happen.
    """

    mixture: Mixture
    process: type = Diffusion
    num_units: int = 1
    blocks: int = 5
    steps: int = 2
    follow: float = 0.5
    eta: float = 1.0
    counts: Counter | None = field(default=None, repr=False)

    renoises = looks_ahead = True

    @property
    def units(self):
        return (self.blocks,) * self.num_units

    @property
    def num_segments(self):
        return sum(self.units)

    @property
    def stochastic(self):
        return self.eta > 0

    @property
    def params(self):
        arrays = vars(self.mixture) | {"eta": self.eta, "follow": self.follow}
        return {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}

    @property
    def schedule(self):
        return self.process(self.blocks * self.steps)

    @property
    def shape(self):
        return self.mixture.means.shape[1:]

    def encode(self, params, prompts):
        return jnp.zeros((len(prompts), 1))

    def init(self, params, condition, key):
        nothing = jnp.zeros(self.shape)
        return dict(done=jnp.zeros((self.num_units, *self.shape)), x=nothing, clean=nothing)

    def _denoise(self, params, centre, x, level):
        if self.counts is not None:
            jax.debug.callback(partial(self._count, self.counts))
        return posterior_mean(params, centre, x, *self.schedule.scales(level))

    @staticmethod
    def _count(counts):
        counts["calls"] += 1

    def _centre(self, params, branch, unit):
        before = branch["done"][jnp.maximum(unit - 1, 0)]
        return jnp.where(jnp.asarray(unit) > 0, params["follow"] * before, 0.0)

    def advance(self, params, condition, branch, key, segment, program=None):
        begins, ends = self.program(segment) if program is None else program
        key = noise.fold_in(key, NOISE_TAG)
        unit, block = segment // self.blocks, segment % self.blocks
        centre = self._centre(params, branch, unit)
        levels = jnp.asarray(self.schedule.levels, jnp.float32)
        x, clean = branch["x"], branch["clean"]
        if begins:
            x = noise.normal(noise.fold_in(key, self.steps), self.shape)
            clean = self._denoise(params, centre, x, levels[0])

        def step(x, clean, i):
            level, after = (levels[block * self.steps + i + j] for j in range(2))
            normals = noise.normal(noise.fold_in(key, i), self.shape)
            return self.schedule.step(x, clean, level, after, normals, params["eta"]), after

        def whole(state, i):
            x, after = step(*state, i)
            return (x, self._denoise(params, centre, x, after)), None

        (x, clean), _ = jax.lax.scan(whole, (x, clean), jnp.arange(self.steps - ends))
        if not ends:
            return branch | dict(x=x, clean=clean)
        x, _ = step(x, clean, self.steps - 1)
        return branch | dict(done=branch["done"].at[unit].set(x), x=x, clean=x)

    def estimate(self, params, condition, branch, segment, look="committed"):
        unit, block = divmod(segment, self.blocks)
        done = branch["done"]
        if block == self.blocks - 1:
            return jnp.concatenate(list(done[: unit + 1]))
        if look == "committed":
            if not unit:
                raise ValueError(f"nothing is finished after segment {segment}")
            return jnp.concatenate(list(done[:unit]))
        x, clean = branch["x"], branch["clean"]
        at = (block + 1) * self.steps
        levels = self._ahead(at, self._calls(segment, look))
        centre = self._centre(params, branch, unit)
        for level, after in pairwise(levels[:-1]):
            x = self.schedule.step(x, clean, level, after, jnp.zeros(self.shape), 0.0)
            clean = self._denoise(params, centre, x, after)
        return jnp.concatenate([*done[:unit], clean])

    def _ahead(self, at, calls):
        """Levels of even steps from step `at` to the end, one more than calls."""
        total = self.blocks * self.steps
        return [
            float(np.interp(i, np.arange(total + 1), self.schedule.levels))
            for i in np.linspace(at, total, calls + 2)
        ]

    def _calls(self, segment, look):
        left = self.steps * (self.blocks - 1 - segment % self.blocks)
        return 0 if isinstance(look, str) else max(0, min(look, left - 1))

    def estimate_nfe(self, segment, look):
        return self._calls(segment, look)

    def renoise(self, params, condition, branch, key, segment, to, strength):
        unit, block = divmod(to, self.blocks)
        if not block:
            return branch | dict(done=branch["done"].at[unit].set(0.0))
        here = (segment - unit * self.blocks) * self.steps
        level, earlier = (float(self.schedule.levels[i]) for i in (here, block * self.steps))
        fresh = strength * noise.normal(noise.fold_in(key, NOISE_TAG), self.shape)
        if to == segment:
            x = branch["x"] + self.schedule.scales(earlier)[1] * fresh
        else:
            x = self.schedule.again(branch["x"], level, earlier, fresh)
        centre = self._centre(params, branch, unit)
        done = branch["done"].at[unit].set(0.0)
        return dict(done=done, x=x, clean=self._denoise(params, centre, x, earlier))

    def renoise_nfe(self, segment, to):
        return int(to % self.blocks > 0)

    def draft(self):
        if self.steps == 1:
            return None
        return dataclasses.replace(self, steps=1)

    def decode(self, params, latents):
        return jnp.clip(0.5 + latents / RANGE, 0.0, 1.0)

    def nfe(self, segment):
        begins, ends = self.program(segment)
        return self.steps + begins - ends

    def program(self, segment):
        return segment % self.blocks == 0, segment % self.blocks == self.blocks - 1


class Linear:
    """The reward <direction, z>, or minus the squared distance to a target.

    Of videos in progress the frames so far count.
    """

    needs = "video"

    def __init__(self, target, squared: bool = False, name: str = "reward"):
        """Takes a direction or a target, [T, H, W, C]."""
        self.target, self.squared, self.name = np.asarray(target, np.float32), squared, name

    def prepare(self, params, prompts):
        return jnp.zeros((len(prompts), 1))

    def score(self, params, frames, query):
        latents = (frames - 0.5) * RANGE
        target = jnp.asarray(self.target)[: latents.shape[1]]
        if self.squared:
            return -((latents - target) ** 2).sum((1, 2, 3, 4))
        return (latents * target).sum((1, 2, 3, 4))

    def value(self, latents):
        """The same of latents [..., T, H, W, C], by numpy."""
        latents = np.asarray(latents, np.float64)
        axes = tuple(range(-4, 0))
        if self.squared:
            return -((latents - self.target) ** 2).sum(axes)
        return (latents * self.target).sum(axes)


class Image(Linear):
    """The reward of the first frame seen."""

    needs = "image"

    def score(self, params, frames, query):
        return super().score(params, frames[:, :1], query)


def make_search(generator, *verifiers, devices: int = 1, **options) -> Search:
    """A search over a generator with verifiers of weight 1."""
    params = {verifier.name: {} for verifier in verifiers}
    options = dict(mesh=branch_mesh(devices)) | options
    return Search(generator, generator.params, Panel(list(verifiers)), params, **options)


def direction(frames: int = 2, seed: int = 5) -> np.ndarray:
    """Some direction of length 1, [T, 2, 2, 3]."""
    found = np.random.default_rng(seed).standard_normal((frames, 2, 2, 3))
    return found / math.sqrt((found**2).sum())


def preset(name: str, generator: Exact | None = None, **fields):
    """A preset by name; of fields that are not given, some that make a small search."""
    own = dict(SMALL.get(name, {}))
    if generator is not None and name == "tree_of_frames":
        units = generator.num_units
        own = dict(branching=(3,) + (2,) * (units - 1), images=(2,) * units)
    own |= fields
    known = importlib.import_module(f"tts_jax.search.presets.{name}").FIELDS
    assert set(own) <= set(known), f"{name} has the fields {sorted(known)}"
    return load_preset(SimpleNamespace(preset=name, **own))


SMALL = dict(
    random_linear=dict(branches=4),
    beam=dict(beams=2, children=2, look_ahead=3),
    greedy=dict(chains=2, children=2),
    fk_steering=dict(particles=4, tilt=1.0),
    successive_halving=dict(widths=(4, 2)),
    evolutionary=dict(schedule=(0, 1), sizes=(4, 3, 3), elites=1),
    zero_order=dict(neighbours=2, iterations=3),
    search_over_paths=dict(samples=2, children=2),
    rollover_budget=dict(quota=3, batch=2),
    backtracking=dict(branches=2, restarts=2),
    draft_then_replay=dict(branches=3),
)
