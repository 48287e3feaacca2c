"""What readers of published config files share."""

from collections.abc import Mapping, Sequence
from typing import Any


def refuse_others(
    what: str, config: Mapping, fixed: Mapping[str, Any], more: Sequence[str] = ()
) -> None:
    """Refuses a config that asks for something that is not ported.

    Args:
      what: the settings, for the error.
      config: the parsed file; a field that it has not is as it should be.
      fixed: the only value of every field that the port knows.
      more: further faults, each "name=value".

    Raises:
      ValueError: there is such a fault; it names all.
    """
    odd = [f"{name}={config[name]!r}" for name, v in fixed.items() if config.get(name, v) != v]
    if odd := [*odd, *more]:
        raise ValueError(f"unsupported {what}: {', '.join(odd)}")
