"""A network to measure, alone or beside the PyTorch original on the same weights and inputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from converters.core import Rules, convert
from tts_jax.checkpoints import abstract_params


@dataclass(frozen=True)
class Network:
    """A network of ours, and perhaps the original on the same weights.

    Attributes:
      graph, params: ours; params may be abstract.
      call: runs our module on the inputs.
      inputs: arrays, or shapes and types.
      original: runs the original on the same inputs, or None; gives an array laid out like ours.
    """

    graph: nnx.GraphDef
    params: dict
    call: Callable
    inputs: tuple
    original: Callable[[], np.ndarray] | None = None

    @property
    def parameters(self) -> int:
        """Their number."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def compile(self) -> jax.stages.Compiled:
        """Our forward call, as `compiled(params, *inputs)`."""

        def forward(params, *inputs):
            return self.call(nnx.merge(self.graph, params), *inputs)

        return jax.jit(forward).lower(self.params, *self.inputs).compile()


def abstract(model: Callable, config, call: Callable, *inputs) -> Network:
    """Our network of a config without weights, for abstract inputs."""
    return Network(*abstract_params(model, config), call, inputs)


def alone(model: Callable, config, call: Callable, *inputs: np.ndarray) -> Network:
    """Our network of a config with random weights, without an original."""
    graph, like = abstract_params(model, config)
    params = jax.tree.map(lambda leaf: jnp.asarray(draw(*leaf.shape)) * leaf.size**-0.5, like)
    return Network(graph, params, call, tuple(map(jnp.asarray, inputs)))


def apply(model: nnx.Module, *inputs):
    """The call of a module that takes the inputs as they are."""
    return model(*inputs)


def draw(*shape: int) -> np.ndarray:
    """Standard normal values, the same for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def random_tokens(vocabulary: int, length: int) -> np.ndarray:
    """Token ids, [1, length] int32, of which the last is the last of the vocabulary."""
    tokens = np.random.default_rng(length).integers(3, vocabulary - 1, (1, length), np.int32)
    tokens[:, -1] = vocabulary - 1
    return tokens


def randomise(model):
    """Draws every parameter of a torch module, also those that begin as zeros or ones."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            norm = "norm" in name and tensor.ndim == 1 and name.endswith("weight")
            fan = tensor[0].numel() if tensor.ndim > 1 else 25
            tensor.normal_(1.0 if norm else 0.0, fan**-0.5)
    return model


def paired(
    original,
    model: Callable,
    config: Any,
    rules: Rules,
    ignored: Mapping[str, str],
    call: Callable,
    inputs: tuple,
    run: Callable,
    rename: Mapping[str, str] | None = None,
) -> Network:
    """Our network with the weights of an original.

    Args:
      original: a torch module with random weights.
      model, config: our module and its config.
      rules, ignored: the conversion table.
      call: runs our module on `inputs`.
      inputs: arrays.
      run: runs the original on them and gives a tensor laid out like ours.
      rename: parts of the original's names to what the table calls them.
    """
    import torch

    original.eval()
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    for old, new in (rename or {}).items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    graph, like = abstract_params(model, config)
    params = jax.tree.map(jnp.asarray, convert(tensors, like, rules, ignored))

    def run_original() -> np.ndarray:
        with torch.inference_mode():
            return run(original, *(torch.from_numpy(x) for x in inputs)).numpy()

    return Network(graph, params, call, tuple(map(jnp.asarray, inputs)), run_original)


def spec(*sizes: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    """The shape and type of an abstract input."""
    return jax.ShapeDtypeStruct(sizes, dtype)
