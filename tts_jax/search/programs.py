"""Compiled programs: each built once, counted, timed and charged to a component."""

import time
from collections.abc import Callable, Hashable
from typing import Any

import jax

from tts_jax.search.flops import jaxpr_flops
from tts_jax.search.ledger import Cost


class Programs:
    """A cache of executables that knows what each costs."""

    def __init__(self):
        self._built = {}

    def __len__(self) -> int:
        """Executables built so far."""
        return len(self._built)

    def __call__(
        self,
        cost: Cost,
        key: Hashable,
        build: Callable[[], Callable],
        *args: Any,
        live: int = 0,
        dead: int = 0,
        nfe: int = 0,
        donate: tuple[int, ...] = (),
        out: jax.sharding.Sharding | None = None,
    ) -> Any:
        """Runs a function's executable, building it at the first call with such shapes.

        Args:
          cost: is charged.
          key: names the function; equal keys mean equal functions.
          build: gives the function.
          args: its arguments, arrays on the devices where it runs.
          live: branches it works on.
          dead: further branches that are padding.
          nfe: denoiser calls per branch.
          donate: arguments whose memory the result may take.
          out: where all of the result lies; by default where the compiler puts it.

        Returns:
          The function's result, ready.
        """
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(args))
        if (key, shapes) not in self._built:
            start = time.perf_counter()
            function = jax.jit(build(), donate_argnums=donate, out_shardings=out)
            traced = function.trace(*args)
            self._built[key, shapes] = traced.lower().compile(), jaxpr_flops(traced.jaxpr)
            cost.compilations += 1
            cost.compile_seconds += time.perf_counter() - start
        program, flops = self._built[key, shapes]
        start = time.perf_counter()
        result = jax.block_until_ready(program(*args))
        wasted = flops * dead // max(live + dead, 1)
        cost += Cost(
            launches=1,
            calls=live,
            nfe=live * nfe,
            flops=flops - wasted,
            padding=dead,
            padding_nfe=dead * nfe,
            padding_flops=wasted,
            seconds=time.perf_counter() - start,
        )
        return result
