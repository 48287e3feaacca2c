"""A small autoregressive generator and verifiers with nothing learned, for searches in tests."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.parallel import branch_mesh
from tts_jax.search import Search, load_preset
from tts_jax.solvers import noise
from tts_jax.verifiers.panel import Panel

pytest.register_assert_rewrite("tests.search.driver")

WIDTH = 24


class Walk:
    """A Gaussian random walk through a random network: unit u depends on all units before it.

    Its first unit and its later units are two programs, as those of Pyramid-Flow are.
    """

    def __init__(self, num_segments=5):
        self.num_segments = num_segments
        mix, own, out = jax.random.normal(jax.random.key(7), (3, WIDTH, WIDTH)) / WIDTH**0.5
        self.params = {"mix": mix, "own": own, "out": out}

    def encode(self, params, prompts):
        return jnp.stack([jnp.full(WIDTH, len(prompt) / 10) for prompt in prompts])

    def init(self, params, condition, key):
        return jnp.zeros((self.num_segments, WIDTH))

    def advance(self, params, condition, branch, key, segment, program=None):
        before = jnp.arange(self.num_segments)[:, None] < segment
        history = jnp.tanh(jnp.where(before, branch, 0.0) @ params["mix"] + condition)

        def step(x, _):
            weights = jax.nn.softmax(history @ (x @ params["own"]) / WIDTH**0.5)
            return x + jnp.tanh((weights @ history + x) @ params["out"]) / 3, None

        unit, _ = jax.lax.scan(step, noise.normal(key, (WIDTH,)), length=3)
        return branch.at[segment].set(unit)

    def estimate(self, params, condition, branch, segment, look="committed"):
        return branch[: segment + 1]

    def estimate_nfe(self, segment, look):
        return 0

    def decode(self, params, latents):
        return jax.nn.sigmoid(latents[:, :12] @ params["own"][:12, :12]).reshape(-1, 2, 2, 3)

    def nfe(self, segment):
        return 6

    def program(self, segment):
        return segment > 0


class Mean:
    """Mean of the first frame, or of all frames, as far as the prompt's length says."""

    def __init__(self, name, needs):
        self.name, self.needs = name, needs

    def prepare(self, params, prompts):
        return jnp.array([[len(prompt)] for prompt in prompts], jnp.float32)

    def score(self, params, frames, query):
        seen = frames[:, :1] if self.needs == "image" else frames
        return (jnp.sin(9 * seen) * params["scale"]).mean((1, 2, 3, 4)) * query[0]


class Broken(Mean):
    """Has no score for dark first frames."""

    def score(self, params, frames, query):
        scores = super().score(params, frames, query)
        return jnp.where(frames[:, 0].mean((1, 2, 3)) < 0.5, jnp.nan, scores)


@pytest.fixture(scope="module")
def walk():
    return Walk()


@pytest.fixture(scope="module")
def make_search(walk):
    """`make_search(devices=1, verifiers=..., **options)`: a search over the random walk.

    A search with the usual models is made once for all tests, unless it is to be a `new` one.
    """
    made = {}

    def make(devices=1, verifiers=None, generator=walk, new=False, **options):
        if new or verifiers or generator is not walk:
            verifiers = verifiers or [Mean("first", "image"), Mean("all", "video")]
            params = {v.name: {"scale": jnp.float32(2.0)} for v in verifiers}
            options = dict(mesh=branch_mesh(devices)) | options
            return Search(generator, generator.params, Panel(verifiers), params, **options)
        key = devices, *sorted(options.items())
        if key not in made:
            made[key] = make(devices, new=True, **options)
        return made[key]

    return make


@pytest.fixture
def broken():
    return Broken("broken", "video")


@pytest.fixture
def linear():
    """Random linear search."""

    def make(branches, judge_depths=()):
        fields = dict(branches=branches, judge_depths=judge_depths)
        return load_preset(SimpleNamespace(preset="random_linear", **fields))

    return make


@pytest.fixture
def tree():
    """Tree-of-Frames."""

    def make(branching, **fields):
        fields = dict(image_keep=0, judge_depths=(), rule="top_k", keep=()) | fields
        return load_preset(SimpleNamespace(preset="tree_of_frames", branching=branching, **fields))

    return make


@pytest.fixture
def same_video():
    """Asserts that two videos agree to the bit."""

    def check(one, other):
        assert tuple(one.path) == tuple(other.path)
        np.testing.assert_array_equal(one.latents, other.latents)
        np.testing.assert_array_equal(one.frames, other.frames)

    return check
