"""Floating-point operations of a traced function: matrix products and convolutions.

XLA's own cost analysis counts a loop's body once and a Pallas kernel not at all; this counts a
scan's body as often as it runs and a kernel's once per point of its grid.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def count_flops(function: Callable, *args: Any) -> int:
    """Operations of one call, two per multiply-add.

    Args:
      function: any traceable function.
      args: arrays or `jax.ShapeDtypeStruct`s; nothing is computed.

    Returns:
      The sum over `dot_general` and `conv_general_dilated`, on all devices together. A convolution
      counts the zeros of its padding; of a branch the dearest side counts; the body of a loop
      whose length is not known before it runs counts once.
    """
    return jaxpr_flops(jax.make_jaxpr(function)(*args))


def jaxpr_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Operations of a jaxpr; see `count_flops`."""
    return jaxpr_sum(jaxpr, matmul_flops)


def jaxpr_sum(jaxpr: Jaxpr | ClosedJaxpr, own: Callable[[JaxprEqn], int | None]) -> int:
    """A sum over all equations, each as often as it runs; see `count_flops` for loops and branches.

    Args:
      jaxpr: with all its inner ones.
      own: what an equation adds each time; None to look inside it, where it has an inside.
    """
    return sum(equation_sum(e, own) for e in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def equation_sum(equation: JaxprEqn, own: Callable[[JaxprEqn], int | None]) -> int:
    """What `jaxpr_sum` adds for one equation."""
    if (added := own(equation)) is not None:
        return added
    inner = [jaxpr_sum(body, own) for body in _bodies(equation.params)]
    if equation.primitive.name == "cond":
        return max(inner)
    return _repeats(equation) * sum(inner)


def matmul_flops(equation: JaxprEqn) -> int | None:
    """Operations of a matrix product or a convolution; None for anything else."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(lhs[axis] for axis in contracted)
    if name == "conv_general_dilated":
        _, inputs, *window = params["dimension_numbers"].rhs_spec
        kernel = equation.invars[1].aval.shape
        taps = math.prod(kernel[axis] for axis in (inputs, *window))
        return 2 * equation.outvars[0].aval.size * taps
    return None


def _repeats(equation: JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    if name == "pallas_call":
        return math.prod(size for size in params["grid_mapping"].grid if isinstance(size, int))
    return 1


def _bodies(params: dict) -> Iterator[Jaxpr | ClosedJaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, Jaxpr | ClosedJaxpr):
                yield item
