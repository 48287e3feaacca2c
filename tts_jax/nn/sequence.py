"""Long sequences of tokens on the devices of a mesh (Ulysses, arXiv 2309.14509).

Tokens are divided over the mesh axis `sequence`; around attention, which needs them all, heads are
divided instead. All of this follows from the mesh that a function is mapped over (see
`tts_jax.parallel`); where there is none, nothing changes.

B batch  L tokens  N heads  K head size  D width.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, PartitionSpec

from tts_jax.parallel import MODEL, SEQUENCE

ANY = PartitionSpec.UNCONSTRAINED


def _sizes() -> dict[str, int]:
    """Devices along those axes, of the mesh around, that the compiler may divide work over."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return {
        name: mesh.shape[name]
        for name in (MODEL, SEQUENCE)
        if kinds.get(name) == AxisType.Auto and mesh.shape[name] > 1
    }


def head_axes(heads: int) -> tuple[str, ...]:
    """The mesh axes that divide attention heads; of those whose devices divide them, the most."""
    sizes = _sizes()
    groups = (tuple(sizes), *((name,) for name in reversed(sizes)))
    fitting = [axes for axes in groups if heads % math.prod(sizes[name] for name in axes) == 0]
    return max(fitting, key=lambda axes: math.prod(sizes[name] for name in axes), default=())


def over_heads(
    attend: Callable, q: Array, k: Array, v: Array, mask: Any, axes: tuple[str, ...]
) -> Array:
    """Attention with each device at some heads of all tokens; its result is divided by tokens.

    Args:
      attend: attention of any heads, of queries, keys, values and mask.
      q, k, v: [B, L_q, N, K], [B, L_k, N, K], [B, L_k, N, K].
      mask: as `attend` takes it; every device has all of it.
      axes: from `head_axes`.

    Returns:
      [B, L_q, N, K].
    """
    heads, whole = PartitionSpec(None, None, axes), PartitionSpec()
    masks = () if mask is None else (mask,)
    own = jax.shard_map(
        lambda q, k, v, *masks: attend(q, k, v, *masks),
        in_specs=(heads,) * 3 + (whole,) * len(masks),
        out_specs=heads,
        axis_names=set(axes),
        check_vma=False,
    )
    return by_sequence(own(q, k, v, *masks))


def by_sequence(x: Array) -> Array:
    """Tokens [B, L, ...], divided over `sequence` where the mesh has it and L is a multiple."""
    devices = _sizes().get(SEQUENCE, 1)
    if devices == 1 or not x.size or x.shape[1] % devices:
        return x
    spec = PartitionSpec(ANY, SEQUENCE, *[ANY] * (x.ndim - 2))
    return jax.lax.with_sharding_constraint(x, spec)
