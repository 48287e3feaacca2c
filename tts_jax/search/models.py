"""What all searches of a process share: models on a mesh, and their programs."""

import copy
import time
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import jax
from jax.sharding import Mesh

from tts_jax.generators.protocol import Generator, Params, parent_nfe
from tts_jax.parallel import (
    BRANCH,
    DeviceByDevice,
    divides_branches_only,
    fetch,
    is_shared,
    make_mesh,
    over_branches,
    place,
)
from tts_jax.search import expansion
from tts_jax.search.executables import Executables
from tts_jax.search.expansion import Layout
from tts_jax.search.programs import Programs
from tts_jax.search.rounds import Outline, SearchConfigError
from tts_jax.verifiers.panel import Panel


class SearchFault(RuntimeError):
    """A model that failed during a search; the message is one sentence."""


class Encoded(NamedTuple):
    """A prompt's condition on the host, and the seconds that it took."""

    condition: Any
    seconds: float


class Models:
    """A generator and a panel on a mesh, with the programs that run them.

    Attributes:
      programs: the executables, shared by all prompts.
      outline: of the generator.
      conditions: of prompts that are encoded already.
    """

    def __init__(
        self,
        generator: Generator,
        params: Params,
        panel: Panel,
        verifier_params: dict[str, dict],
        *,
        mesh: Mesh | None = None,
        micro_batch: int = 0,
        exact: bool | None = None,
        conditions: Mapping[tuple[str, str], Encoded] = types.MappingProxyType({}),
        executables: Executables | None = None,
    ):
        """Brings the parameters to the devices.

        Args:
          generator: makes the videos.
          params: its parameters.
          panel: judges them.
          verifier_params: verifier name to parameters.
          mesh: as of `make_mesh`, by whose axes branches, the parameters of the generator and of
            the verifiers, and long sequences are divided; all devices share branches if None.
          micro_batch: the most branches a device works on at once; 0 for any number. It is halved
            when a batch does not fit in a device's memory.
          exact: each device works on one branch at a time, which is slower; None: on CPU alone,
            where the mesh divides branches only.
          conditions: of prompts that are encoded already, see `encode_prompts`.
          executables: of an earlier process, which are run instead of compiling.

        Raises:
          SearchConfigError: a negative micro-batch, or exact with divided parameters or sequences.
        """
        if micro_batch < 0:
            raise SearchConfigError(f"micro_batch is {micro_batch}, but it counts branches")
        self.mesh = make_mesh() if mesh is None else mesh
        alone = divides_branches_only(self.mesh)
        if exact and not alone:
            raise SearchConfigError("an exact search is on a mesh that divides branches only")
        if exact is None:
            exact = alone and self.mesh.devices.flat[0].platform == "cpu"
        self.generators = {"full": generator}
        if draft := getattr(generator, "draft", lambda: None)():
            self.generators["draft"] = draft
        self.outline = outline_of(generator)
        self.panel = panel
        self.params = place(params, self.mesh)
        self.verifier_params = place(
            {v.name: verifier_params[v.name] for v in panel.verifiers}, self.mesh
        )
        self.programs = Programs(executables)
        self.judges = _judges(panel)
        self.conditions = conditions
        self._micro_batch, self._exact = micro_batch, exact

    @property
    def generator(self) -> Generator:
        """Makes the videos."""
        return self.generators["full"]

    def judged_by(self, panel: Panel) -> Self:
        """The same models, parameters and programs with another panel.

        Args:
          panel: of the same verifiers, with other weights, aggregation, guards or held-out ones.

        Raises:
          SearchConfigError: other verifiers.
        """
        if panel.names != self.panel.names:
            raise SearchConfigError(
                f"a panel of {', '.join(panel.names)} cannot take the place of one of "
                f"{', '.join(self.panel.names)}"
            )
        other = copy.copy(self)
        other.panel, other.judges = panel, _judges(panel)
        return other

    def layout(self, parents: int, children: int, *, share: bool) -> Layout:
        """The shape of the calls for some branches; see `expansion.layout`."""
        return expansion.layout(
            parents,
            children,
            devices=self.mesh.shape[BRANCH],
            micro_batch=self._micro_batch,
            exact=self._exact,
            share=share,
        )

    def over_branches(self, function: Callable, shared: int) -> Callable | DeviceByDevice:
        """A function of each device's share of branches; see `parallel.over_branches`."""
        if self._exact:
            return DeviceByDevice(function, self.mesh, shared)
        return over_branches(function, self.mesh, shared)

    def without_memory_for(self, branches: int) -> None:
        """Takes half as many branches at once from now on.

        Args:
          branches: on one device, for which its memory was too small.

        Raises:
          SearchFault: it was one branch, or the other processes of the mesh know nothing of it.
        """
        if branches <= 1:
            raise SearchFault("one branch alone does not fit in the memory of a device")
        if is_shared(self.mesh):
            raise SearchFault(
                f"{branches} branches do not fit in the memory of a device; start again with "
                f"micro_batch={branches // 2}"
            )
        self._micro_batch = branches // 2
        warnings.warn(
            f"{branches} branches do not fit in the memory of a device; going on with "
            f"{self._micro_batch} at once (micro_batch={self._micro_batch} from the start is "
            "faster)",
            stacklevel=2,
        )


def _judges(panel: Panel) -> dict[str, Panel]:
    image = panel.image()
    return {"panel": panel, **({"image": image} if image else {})}


def encode_prompts(
    generator: Generator, params: Params, prompts: Sequence[str], *, drafts: bool
) -> dict[tuple[str, str], Encoded]:
    """Conditions of prompts, on the host, so that the text encoders can be freed.

    Args:
      generator: makes the videos.
      params: its parameters, on one device or divided.
      prompts: texts.
      drafts: whether the draft version's are wanted too.

    Returns:
      For `Search`: (fidelity, prompt) to condition.
    """
    versions = {"full": generator}
    if drafts and (draft := getattr(generator, "draft", lambda: None)()):
        versions["draft"] = draft
    encoded = {}
    for prompt in dict.fromkeys(prompts):
        for fidelity, version in versions.items():
            start = time.perf_counter()
            found = jax.tree.map(lambda x: x[0], fetch(version.encode(params, [prompt])))
            encoded[fidelity, prompt] = Encoded(found, time.perf_counter() - start)
    return encoded


def outline_of(generator: Generator) -> Outline:
    """What presets may know of a generator."""
    segments = range(generator.num_segments)
    draft = getattr(generator, "draft", lambda: None)()
    renoises = getattr(generator, "renoises", False)
    return Outline(
        units=tuple(getattr(generator, "units", (1,) * len(segments))),
        nfe=tuple(generator.nfe(segment) for segment in segments),
        stochastic=getattr(generator, "stochastic", False),
        renoises=renoises,
        **({"renoise_nfe": generator.renoise_nfe} if renoises else {}),
        look_ahead=generator.estimate_nfe if getattr(generator, "looks_ahead", False) else None,
        draft_nfe=draft and tuple(draft.nfe(segment) for segment in segments),
        parent_nfe=tuple(parent_nfe(generator, segment) for segment in segments),
    )


def out_of_memory(error: Exception) -> bool:
    """Whether a smaller batch would mend it."""
    memory = isinstance(error, jax.errors.JaxRuntimeError)
    return memory and "RESOURCE_EXHAUSTED" in str(error)
