"""Compiled programs: each built once, counted, timed and charged to a component."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.profiler import TraceAnnotation

from tts_jax.parallel import DeviceByDevice, TracedDeviceByDevice
from tts_jax.search.executables import Executables, Stored, compiling_anew, one_line, tell
from tts_jax.search.flops import jaxpr_flops
from tts_jax.search.ledger import Cost, Ledger

# What a call may take above the slowest seen so far.
MARGIN = 1.25
# Names the calls of executables in a profile; "number" is their place among `Programs.built`.
ANNOTATION = "tts_jax program"


@dataclass(frozen=True)
class Built:
    """An executable.

    Attributes:
      component: first charged with it.
      key: names its function.
      run: takes the arguments.
      began: when it was traced, by `time.perf_counter`.
      seconds: that tracing and compiling, or reading it, took.
      number: its place among all.
      kept: whether it was taken from a folder instead.
    """

    component: str
    key: Hashable
    run: Callable
    began: float
    seconds: float
    number: int
    kept: bool = False

    @property
    def parts(self) -> list[jax.stages.Compiled]:
        """What the compiler made: one for all devices, or one for each."""
        return list(getattr(self.run, "programs", {0: self.run}).values())


class Programs:
    """A cache of executables that knows what each costs."""

    def __init__(self, executables: Executables | None = None):
        """Begins with none; those in `executables` are taken from there, and new ones kept."""
        self._traced, self._built, self._slowest = {}, {}, {}
        self._executables, self._loaded = executables, {}
        self._assumed = 0.0

    def __len__(self) -> int:
        """Executables built so far."""
        return len(self._built)

    @property
    def built(self) -> list[Built]:
        """The executables in the order in which they were built."""
        return list(self._built.values())

    def __call__(
        self,
        cost: Cost,
        key: Hashable,
        build: Callable[[], Callable | DeviceByDevice],
        *args: Any,
        live: int = 0,
        dead: int = 0,
        nfe: int = 0,
        row_nfe: tuple[int, int] = (0, 0),
        donate: tuple[int, ...] = (),
        out: jax.sharding.Sharding | None = None,
        component: str = "",
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
          row_nfe: further ones that branches share, those of live branches and those of padding.
          donate: arguments whose memory the result may take.
          out: where all of the result lies; by default where the compiler puts it.
          component: the name of what is charged.

        Returns:
          The function's result, ready.
        """
        name = key, _shapes(args)
        make = partial(self._make, cost, component, name, build, args, donate, out)
        if name not in self._built:
            make()
        start = time.perf_counter()
        try:
            result = self._run(name, args)
        except (TypeError, ValueError) as error:  # raised before anything is computed
            if not self._built[name].kept:
                raise
            tell(f"a kept executable takes other arguments ({one_line(error)}); compiling it again")
            make(anew=True)
            start = time.perf_counter()
            result = self._run(name, args)
        seconds = time.perf_counter() - start
        self._slowest[name] = max(seconds, self._slowest.get(name, 0.0))
        cost += _work(live, dead, nfe, row_nfe, self._traced[name][1], seconds)
        return result

    def _run(self, name: Hashable, args: tuple) -> Any:
        built = self._built[name]
        with TraceAnnotation(ANNOTATION, number=built.number):
            return jax.block_until_ready(built.run(*args))

    def _make(self, cost, component, name, build, args, donate, out, *, anew=False) -> None:
        """Takes an executable from the folder, or compiles it."""
        start = time.perf_counter()
        stored = None if anew else self._load(name, args)
        if stored is None:
            # What a price was traced with does not say where arrays lie.
            traced = _trace(build, args, donate, out)
            flops = jaxpr_flops(traced.jaxpr) * _devices(traced)
            if self._executables is None:
                run = _compile(traced)
            else:
                with compiling_anew():
                    run = _compile(traced)
                self._executables.save(name, args, Stored(run, flops, traced.out_info))
            cost.compilations += 1
        else:
            traced, flops, run = stored, stored.flops, stored.run
        self._traced[name] = traced, flops
        seconds = time.perf_counter() - start
        number = self._built[name].number if anew else len(self._built)
        self._built[name] = Built(
            component, name[0], run, start, seconds, number, kept=stored is not None
        )
        cost.compile_seconds += seconds

    def _load(self, name: Hashable, args: tuple) -> Stored | None:
        if self._executables is None:
            return None
        if name not in self._loaded:
            self._loaded[name] = self._executables.load(name, args)
        return self._loaded[name]

    def price(
        self,
        cost: Cost,
        key: Hashable,
        build: Callable[[], Callable | DeviceByDevice],
        *args: Any,
        live: int = 0,
        dead: int = 0,
        nfe: int = 0,
        row_nfe: tuple[int, int] = (0, 0),
        donate: tuple[int, ...] = (),
        out: jax.sharding.Sharding | None = None,
    ) -> Any:
        """Charges what a call would take, and computes nothing.

        Seconds are the slowest call so far with a margin; of a program that has not run, they
        follow from its operations at the slowest rate seen.

        Args: as those of a call; arrays may be `jax.ShapeDtypeStruct`s.

        Returns:
          Shapes and dtypes of the result.
        """
        name = key, _shapes(args)
        traced, flops = self._priced(name, build, args, donate, out)
        if name in self._slowest:
            seconds = self._slowest[name]
        else:
            seconds = flops * max(
                (s / self._traced[n][1] for n, s in self._slowest.items() if self._traced[n][1]),
                default=self._assumed,
            )
        cost += _work(live, dead, nfe, row_nfe, flops, seconds * MARGIN)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), traced.out_info)

    def assume(self, ledger: Ledger) -> None:
        """Takes the rate of an earlier start until a program has run."""
        costs = [ledger[component] for component in ledger]
        rates = [c.seconds / (c.flops + c.padding_flops) for c in costs if c.flops]
        self._assumed = max(rates, default=0.0)

    @property
    def measured(self) -> bool:
        """Whether any program with operations has run."""
        return any(self._traced[name][1] for name in self._slowest)

    def _priced(self, name, build, args, donate, out) -> tuple[Any, int]:
        """What is traced or stored of a program, and its operations."""
        if name not in self._traced:
            traced = self._load(name, args)
            if traced is not None:
                self._traced[name] = traced, traced.flops
            else:
                traced = _trace(build, args, donate, out)
                self._traced[name] = traced, jaxpr_flops(traced.jaxpr) * _devices(traced)
        return self._traced[name]


def _trace(build: Callable, args: tuple, donate: tuple[int, ...], out: Any) -> Any:
    function = build()
    if not isinstance(function, DeviceByDevice):
        function = jax.jit(function, donate_argnums=donate, out_shardings=out)
    return function.trace(*args)


def _devices(traced: Any) -> int:
    """How many devices run the jaxpr; what is partitioned says so in it."""
    return traced.devices if isinstance(traced, TracedDeviceByDevice) else 1


def _compile(traced: Any) -> Callable:
    return (traced if isinstance(traced, TracedDeviceByDevice) else traced.lower()).compile()


def _shapes(args: Any) -> tuple:
    return tuple((x.shape, x.dtype) for x in jax.tree.leaves(args))


def _work(
    live: int, dead: int, nfe: int, row_nfe: tuple[int, int], flops: int, seconds: float
) -> Cost:
    wasted = flops * dead // max(live + dead, 1)
    return Cost(
        launches=1,
        calls=live,
        nfe=live * nfe + row_nfe[0],
        flops=flops - wasted,
        padding=dead,
        padding_nfe=dead * nfe + row_nfe[1],
        padding_flops=wasted,
        seconds=seconds,
    )
