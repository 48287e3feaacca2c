"""The operations of a traced program by kind: which of them the matrix units do, and in what type.

Counted as the ledger counts, see `tts_jax.search.flops`.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from tts_jax.search.flops import equation_sum, jaxpr_sum, matmul_flops

# Operations that move, make or compare numbers and compute none; any other counts one for each
# element of its result.
_MOVES = frozenset(
    """
    broadcast_in_dim reshape transpose slice dynamic_slice dynamic_update_slice gather
    concatenate pad squeeze expand_dims convert_element_type copy copy_p iota select_n
    stop_gradient split rev bitcast_convert_type device_put optimization_barrier random_wrap
    random_unwrap mesh_cast sharding_constraint get swap masked_load masked_swap load store
    program_id eq ne lt le gt ge and or not
    """.split()
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Operations of one call on all chips together, two per multiply-add.

    Attributes:
      flops: of matrix products and convolutions.
      wide: of those among them whose inputs are float32 or wider.
      kernels: of those among them inside Pallas kernels.
      elementwise: of everything else that computes, one per element.
    """

    flops: int
    wide: int
    kernels: int
    elementwise: int

    @property
    def share(self) -> float:
        """Matrix products and convolutions among all operations, in [0, 1]."""
        return self.flops / max(self.flops + self.elementwise, 1)


def work_of(jaxpr: Jaxpr | ClosedJaxpr) -> Work:
    """Counts a jaxpr's operations."""
    return Work(
        flops=jaxpr_sum(jaxpr, matmul_flops),
        wide=jaxpr_sum(jaxpr, _wide),
        kernels=jaxpr_sum(jaxpr, _kernels),
        elementwise=jaxpr_sum(jaxpr, _elementwise),
    )


def operand_bytes(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Bytes that matrix products, convolutions and Pallas kernels read and write in one call.

    What a program moves at least if nothing stays on the chip between two of them; an operand that
    several branches share counts once.
    """
    return jaxpr_sum(jaxpr, _operands)


def _operands(equation: JaxprEqn) -> int | None:
    if matmul_flops(equation) is None and equation.primitive.name != "pallas_call":
        return None
    avals = [x.aval for x in (*equation.invars, *equation.outvars)]
    return sum(aval.size * jnp.dtype(aval.dtype).itemsize for aval in avals)


def _wide(equation: JaxprEqn) -> int | None:
    found = matmul_flops(equation)
    if found is None:
        return None
    return found * all(jnp.dtype(x.aval.dtype).itemsize >= 4 for x in equation.invars[:2])


def _kernels(equation: JaxprEqn) -> int | None:
    if equation.primitive.name != "pallas_call":
        return 0 if matmul_flops(equation) is not None else None
    return equation_sum(equation, matmul_flops)


def _elementwise(equation: JaxprEqn) -> int | None:
    if matmul_flops(equation) is not None or equation.primitive.name in _MOVES:
        return 0
    values = equation.params.values()
    lists = [v if isinstance(v, tuple | list) else (v,) for v in values]
    if any(isinstance(item, Jaxpr | ClosedJaxpr) for own in lists for item in own):
        return None
    sizes = [getattr(x.aval, "size", 0) for x in (*equation.outvars, *equation.invars)]
    reduces = equation.primitive.name.startswith(("reduce", "arg", "cum"))
    return max(sizes) if reduces else max(sizes[: len(equation.outvars)], default=0)
