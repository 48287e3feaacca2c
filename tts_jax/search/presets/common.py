"""What presets have in common: their fields, and what they need of a generator."""

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from tts_jax.search.rounds import Outline, SearchConfigError


def fields(config: Any, defaults: Mapping[str, Any]) -> SimpleNamespace:
    """A preset's fields: those of the configuration that are there and not None, else defaults."""
    own = {name: getattr(config, name, None) for name in defaults}
    return SimpleNamespace(
        **{name: defaults[name] if value is None else value for name, value in own.items()}
    )


def at_least(least: int, **numbers: int) -> None:
    """Checks that whole numbers are large enough.

    Raises:
      SearchConfigError: one is not.
    """
    for name, number in numbers.items():
        if number < least:
            raise SearchConfigError(f"{name} is {number}, but at least {least} is needed")


def within(low: float, high: float, **numbers: float) -> None:
    """Checks that low <= number <= high.

    Raises:
      SearchConfigError: a number is outside.
    """
    for name, number in numbers.items():
        if not low <= number <= high:
            raise SearchConfigError(f"{name} is {number}, but it lies between {low} and {high}")


def check_depths(depths: Sequence[int], outline: Outline, *, name: str, least: int = 1) -> None:
    """Checks that depths increase and lie inside a video.

    Raises:
      SearchConfigError: they do not.
    """
    if any(depth < least or depth >= outline.num_segments for depth in depths):
        raise SearchConfigError(
            f"{name} {list(depths)} are not all in {least}..{outline.num_segments - 1}, "
            f"segments done of {outline.num_segments}"
        )
    if list(depths) != sorted(set(depths)):
        raise SearchConfigError(f"{name} {list(depths)} do not increase")


def starts_unit(outline: Outline, depth: int) -> bool:
    """Whether the segment after so many is the first of a unit, which draws its noise."""
    return depth == 0 or depth in outline.unit_ends


def check_forks(outline: Outline, depths: Iterable[int]) -> None:
    """Checks that children of one parent differ, at all depths where a search forks.

    Raises:
      SearchConfigError: a fork inside a unit of a deterministic solver.
    """
    inside = [depth for depth in depths if not starts_unit(outline, depth)]
    if inside and not outline.stochastic:
        raise SearchConfigError(
            f"the search forks inside a unit, after segment {inside[0]}, where this generator's "
            "solver draws no noise, so that it needs a stochastic solver"
        )


def steps_of(outline: Outline, every: int) -> list[int]:
    """Depths at which a search that judges after every so many segments judges, the last included.

    Raises:
      SearchConfigError: `every` is no number of segments.
    """
    at_least(1, every=every)
    return [*range(every, outline.num_segments, every), outline.num_segments]
