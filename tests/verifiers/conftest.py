"""Judges with the weights of golden folders."""

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from converters.cases import Run
from converters.core import check, convert
from tests.published import judge_tokenizer
from tts_jax.checkpoints import abstract_params
from tts_jax.language.reader import Reader


class Judge(NamedTuple):
    """A golden folder and our model with its weights."""

    fields: dict
    config: Any
    graph: nnx.GraphDef
    params: dict
    io: dict[str, np.ndarray]

    def run(self, function, *inputs):
        """A compiled function of the module and inputs."""
        run = Run(self.graph, self.params, self.fields)
        return jax.tree.map(np.asarray, run(function, *inputs))

    def check(self, case, *names):
        """Fails if an output of the case is wrong, or one of these is not among them."""
        outputs = list(case(Run(self.graph, self.params, self.fields), self.io))
        assert set(names) <= {output.name for output in outputs}
        wrong = {output.name: output.difference for output in outputs if not output.good}
        assert not wrong


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
    """Of the judges' published directories."""
    return judge_tokenizer()


@pytest.fixture(scope="session")
def reader(saved_tokenizer):
    """The same, as judges read."""
    return Reader(saved_tokenizer, limit=12)
