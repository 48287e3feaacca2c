"""Judges with the weights of golden folders."""

import json
import string
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Saved

from converters.core import check, convert
from tts_jax.checkpoints import abstract_params
from tts_jax.verifiers.judging import Reader


class Judge(NamedTuple):
    """A golden folder and our model with its weights."""

    fields: dict
    config: Any
    graph: nnx.GraphDef
    params: dict
    io: dict[str, np.ndarray]

    @property
    def model(self) -> nnx.Module:
        """The module."""
        return nnx.merge(self.graph, self.params)

    def run(self, function, *inputs):
        """A compiled function of the module and inputs."""
        call = jax.jit(lambda params, *xs: function(nnx.merge(self.graph, params), *xs))
        return jax.tree.map(np.asarray, call(self.params, *inputs))


@pytest.fixture(scope="session")
def open_judge(golden):
    """`open_judge(folder, build, read, rules, ignored, prepare)`: its judge."""

    def build_judge(name, build, read, rules, ignored=None, prepare=dict):
        folder = golden(name)
        fields = json.loads((folder / "config.json").read_text())
        config = read(fields)
        graph, like = abstract_params(build, config)
        tensors = prepare(load_file(folder / "weights.safetensors"))
        params = jax.tree.map(jnp.asarray, convert(tensors, like, rules, ignored))
        return Judge(fields, config, graph, params, load_file(folder / "io.safetensors"))

    return build_judge


@pytest.fixture(scope="session")
def check_manifest(golden):
    """`check_manifest(name, build, config, rules, ignored, prepare)`: how many tensors it takes."""

    def run(name, build, config, rules, ignored=None, prepare=dict):
        shapes = json.loads((golden("manifests") / f"{name}.json").read_text())
        _, like = abstract_params(build, config)
        steps = check(prepare(shapes), like, rules, ignored)
        assert len({step.source for step in steps}) == len(steps)
        return len(steps)

    return run


@pytest.fixture(scope="session")
def close():
    """`close(found, wanted, atol)` within the folders' tolerance."""

    def compare(found, wanted, atol=1e-4):
        np.testing.assert_allclose(np.asarray(found), wanted, atol=atol, rtol=0)

    return compare


@pytest.fixture(scope="session")
def saved_tokenizer():
    """Words and letters, with the special tokens of all judges' layouts."""
    special = ["<unk>", "<s>", "<fake_token_around_image>", "<image>", "<|im_start|>"]
    special += ["<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += [f"<|{name}_reward|>" for name in ("VQ", "MQ", "TA")]
    names = [*special, "yes", "no", *string.ascii_lowercase, *string.digits, *" .,:?\n"]
    saved = Saved(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    saved.pre_tokenizer = pre_tokenizers.Split(Regex("yes|no|."), "isolated")
    saved.add_special_tokens([AddedToken(name, special=True) for name in special])
    return saved


@pytest.fixture(scope="session")
def reader(saved_tokenizer):
    """The same, as judges read."""
    return Reader(saved_tokenizer, limit=12)
