r"""Parts of tables that several judges share: SigLIP, two linear layers, and fused projections."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import numpy as np

from converters.clip import blocks
from converters.core import AS_IS, CONV2D, LINEAR, Rules


def siglip_rules(source: str, target: str, *, table: bool = True, norm: bool = True) -> Rules:
    """Table of SigLIP's vision tower under the names of the transformers package.

    Args:
      source: pattern before the names.
      target: our prefix.
      table: whether positions are a table.
      norm: whether the last norm is used.
    """
    rules = {
        source + r"embeddings\.patch_embedding\.weight": (f"{target}patch", CONV2D),
        source + r"embeddings\.patch_embedding\.bias": (f"{target}patch_bias", AS_IS),
        **blocks(source, target),
    }
    if table:
        rules[source + r"embeddings\.position_embedding\.weight"] = (f"{target}position", AS_IS)
    if norm:
        rules[source + r"post_layernorm\.weight"] = (f"{target}norm.scale", AS_IS)
        rules[source + r"post_layernorm\.bias"] = (f"{target}norm.bias", AS_IS)
    return rules


def two_layers(source: str, target: str) -> Rules:
    """Table of two linear layers that are stored as the first and third of three."""
    rules = {}
    for stored, ours in ((0, "fc1"), (2, "fc2")):
        rules[source + rf"{stored}\.weight"] = (f"{target}.{ours}.kernel", LINEAR)
        rules[source + rf"{stored}\.bias"] = (f"{target}.{ours}.bias", AS_IS)
    return rules


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a stored tensor's first axis, read when asked for."""

    whole: object
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop - self.start, *shape_of(self.whole)[1:])

    @property
    def dtype(self):
        return getattr(self.whole, "dtype", np.dtype(np.float32))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        part = np.asarray(self.whole)[self.start : self.stop]
        return part if dtype is None else part.astype(dtype)


def split_rows(
    tensors: Mapping,
    pattern: str,
    template: str,
    queries: Callable[[Mapping, str], int | None],
) -> dict:
    r"""Replaces fused queries, keys and values by three tensors each.

    Args:
      tensors: published names to arrays, stored tensors, or shapes.
      pattern: of the fused names.
      template: of the three new names, with `{part}` for q, k and v, and \1 and so on.
      queries: rows of the queries of a fused tensor, of all tensors and its name; keys and values
        share the rest. None leaves it as it is.
    """
    result = {}
    for name, tensor in tensors.items():
        found, shape = re.fullmatch(pattern, name), shape_of(tensor)
        first = queries(tensors, name) if found and shape else None
        if first is None or first >= shape[0] or (shape[0] - first) % 2:
            result[name] = tensor
            continue
        kept = (shape[0] - first) // 2
        edges = (0, first, first + kept, first + 2 * kept)
        for part, start, stop in zip("qkv", edges, edges[1:], strict=False):
            result[found.expand(template.replace("{part}", part))] = Rows(tensor, start, stop)
    return result


def third(tensors: Mapping, name: str) -> int | None:
    """Rows of the queries where queries, keys and values have as many."""
    rows = shape_of(tensors[name])[0]
    return rows // 3 if rows % 3 == 0 else None


def shape_of(tensor) -> tuple[int, ...] | None:
    """The shape of an array, of a stored tensor, or of what is a shape itself."""
    shape = getattr(tensor, "shape", tensor)
    return None if shape is None else tuple(shape)
