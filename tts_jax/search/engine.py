"""Searches on devices: models on a mesh, and a forest of branches for each prompt.

W branches  V verifiers  T frames  H W frame size.
"""

import copy
import time
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from tts_jax.generators.protocol import Generator, Params
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
from tts_jax.search import expansion, paths
from tts_jax.search.budget import Budget, total
from tts_jax.search.expansion import Layout
from tts_jax.search.forest import (
    Encoded,
    Forest,
    Name,
    PricedForest,
    SearchFault,
    Seen,
    out_of_memory,
    timed,
)
from tts_jax.search.growth import children, growths
from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.loop import Done, Record, drive
from tts_jax.search.paths import Path
from tts_jax.search.plan import Plan, Scores, bounds, plan
from tts_jax.search.presets import Preset
from tts_jax.search.programs import Programs
from tts_jax.search.rounds import Outline, Round, SearchConfigError
from tts_jax.search.tree import Node
from tts_jax.verifiers.panel import Panel

Progress = Callable[[int, int], None]
Around = Callable[[int, Round], AbstractContextManager]

# Links that a chain of keys has room for; a search takes the first that suffices. Searches without
# moves have room too: what is drawn from a plain key is rounded differently.
ROOMS = (15, 63)


@dataclass(frozen=True, kw_only=True)
class Video:
    """One complete branch.

    Attributes:
      path: its steps.
      latents: its estimate.
      frames: [T, H, W, 3] float32 in [0, 1].
    """

    path: Path
    latents: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found and what it took.

    Attributes:
      best: the winner.
      nodes: every branch at the end of every round, by round and path.
      requests: the rounds as they were executed.
      candidates: the complete videos among the nodes, with frames and latents.
      incumbents: the best video so far, each time it changed.
      weights: log-weights of complete videos, if the preset has any.
      cut: whether the budget ended the search or made a round smaller.
      ledger: the cost of this search.
    """

    best: Video
    nodes: tuple[Node, ...]
    requests: tuple[Round, ...]
    candidates: tuple[Node, ...]
    incumbents: tuple[Node, ...]
    weights: dict[Path, float] | None
    cut: bool
    ledger: Ledger

    def to_json(self) -> dict:
        """The tree with its costs; equal for equal seeds, so that it holds no times."""
        return {
            "best": paths.to_json(self.best.path),
            "rounds": [
                {
                    "to": r.to,
                    "parents": len(r.parents),
                    "judges": r.judges,
                    "stage": r.stage,
                    "label": r.label,
                }
                for r in self.requests
            ],
            "nodes": [node.to_json() for node in self.nodes],
            "incumbents": [
                {"round": node.round, "path": paths.to_json(node.path)} for node in self.incumbents
            ],
            "cut": self.cut,
            "cost": self.ledger.to_json(repeatable=True),
        }


@dataclass(frozen=True)
class Saved:
    """A search between two rounds.

    Attributes:
      rounds: those executed, with the frames and latents that their nodes hold.
      states: of every held branch with its keys, the leaves.
      ledger: the cost so far.
    """

    rounds: list[Done]
    states: dict[Name, list[np.ndarray]]
    ledger: Ledger


class Store(Protocol):
    """Where a search is kept between rounds."""

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was.

        Raises:
          SearchFault: it cannot be read, or is of another search.
        """
        ...

    def save(self, saved: Saved) -> None:
        """Keeps this instead of what was saved before, atomically.

        Args:
          saved: the search that was loaded or saved before, some rounds later.

        Raises:
          SearchFault: it cannot be written.
        """
        ...


class Search:
    """A generator and a panel on a mesh, ready to search for many prompts.

    A branch depends on (seed, prompt index, path) alone: key(child) = fold_in(key(parent), index).
    In exact mode its bits do too, whatever the search and the mesh; else rounding depends on the
    batch, siblings are computed together, and what depends on their parent alone is computed once.

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
        self.programs = Programs()
        self.judges = _judges(panel)
        self.conditions = conditions
        self._micro_batch, self._exact = micro_batch, exact

    @property
    def generator(self) -> Generator:
        """Makes the videos."""
        return self.generators["full"]

    def judged_by(self, panel: Panel) -> "Search":
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

    def plan(
        self,
        prompt: str,
        preset: Preset,
        budget: Budget | None = None,
        scores: Scores = "distinct",
        *,
        seed: int = 0,
        prompt_index: int = 0,
    ) -> Plan:
        """What a search takes on these models, operations included; no video is made.

        Args:
          prompt: the text.
          preset: the search.
          budget: limits.
          scores: invented ones, see `tts_jax.search.plan.plan`.
          seed: of everything random.
          prompt_index: the prompt's place among those of the run.
        """
        options = dict(seed=seed, prompt_index=prompt_index)
        run = _Run(self, prompt, preset, budget, **options)
        run.begin(())
        return plan(preset, self.outline, scores, budget=budget, price=run.price_of, **options)

    def run(
        self,
        prompt: str,
        preset: Preset,
        *,
        seed: int = 0,
        prompt_index: int = 0,
        stage_prompts: Sequence[str] = (),
        budget: Budget | None = None,
        keep_frames: bool = True,
        store: Store | None = None,
        progress: Progress | None = None,
        around: Around | None = None,
    ) -> SearchResult:
        """Searches for one prompt.

        Args:
          prompt: the text.
          preset: the search.
          seed: of everything random.
          prompt_index: the prompt's place among those of the run.
          stage_prompts: what rounds with a stage judge by; the whole prompt if there are none.
          budget: limits.
          keep_frames: whether the nodes of incomplete videos hold the frames they were judged by.
          store: keeps the search between rounds, and holds what an earlier start has done.
          progress: called with the denoiser calls made and planned, whenever some were made.
          around: gives a context in which a round, with its number, is executed.

        Raises:
          SearchConfigError: rounds that fit neither the generator nor the panel nor the stages, or
            a budget that no video fits.
          SearchFault: a model fails, or makes no video that can be judged.
          ValueError: a prompt that a model cannot take.
        """
        options = dict(seed=seed, prompt_index=prompt_index)
        run = _Run(self, prompt, preset, budget, **options)
        run.begin(stage_prompts, keep_frames, progress, around)
        saved = store and store.load()

        def after_round(record: Record):
            with timed(run.ledger["io"]):
                store.save(Saved(record.done(), run.forest.states(), run.ledger))

        record = drive(
            preset,
            run,
            budget=budget,
            recorded=saved.rounds if saved else (),
            resumed=partial(run.resume, saved) if saved else None,
            after_round=after_round if store else None,
            **options,
        )
        winner = record.incumbents[-1]
        if not any(np.isfinite(list(winner.scores.values()))):
            raise SearchFault(
                f"none of the {len(record.candidates(self.outline.num_segments))} videos of "
                f"prompt {prompt_index} could be judged: every score is NaN or infinite"
            )
        return SearchResult(
            best=Video(path=winner.path, latents=winner.latents, frames=winner.frames),
            nodes=tuple(record.nodes),
            requests=tuple(record.requests),
            candidates=tuple(record.candidates(self.outline.num_segments)),
            incumbents=tuple(record.incumbents),
            weights=record.weights,
            cut=record.cut,
            ledger=run.ledger,
        )

    def replay(self, prompt: str, path: Path, *, seed: int = 0, prompt_index: int = 0) -> Video:
        """Makes one video again from its path, alone.

        Raises:
          SearchConfigError: the path's length is not that of a video.
        """
        if paths.depth(path) != self.outline.num_segments:
            raise SearchConfigError(
                f"path {paths.to_json(path)} is not one of {self.outline.num_segments} segments"
            )
        room = next(room for room in ROOMS if room >= paths.links(path))
        forest = Forest(self, prompt, seed, prompt_index, room)
        for step in growths({tuple(path): ()}):
            forest.grow("full", step, (1, 1))
        rows = self.layout(1, 1, share=False).rows
        seen = forest.look("full", [tuple(path)], "committed", rows)
        latents, frames = fetch(seen.latents)[0], fetch(seen.frames)[0]
        return Video(path=tuple(path), latents=latents, frames=frames)


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
    )


class _Run:
    """Executes the rounds of one search on the devices; see `loop.Executor`."""

    def __init__(
        self,
        models: Search,
        prompt: str,
        preset: Preset,
        budget: Budget | None,
        **options: int,
    ):
        self.models, self.outline = models, models.outline
        limit = {"budget": Budget(nfe=budget.nfe)} if budget and budget.nfe else {}
        self._most = bounds(preset, self.outline, **limit, **options)
        # Rounds that the budget will not allow are priced, too.
        free = bounds(preset, self.outline, **options) if limit else self._most
        links = max(r.links for r in free)
        if links > ROOMS[-1]:
            links = max(r.links for r in self._most)
        room = next((room for room in ROOMS if room >= links), None)
        if room is None:
            raise SearchConfigError(
                f"the search makes {links} neighbours of neighbours, but {ROOMS[-1]} is the most"
            )
        self._room, self._widest = room, max((r.width for r in self._most), default=1)
        self.forest = Forest(models, prompt, room=room, **options)
        self._queries: list[dict] = []
        self._done = self._stages = 0

    def begin(
        self,
        stage_prompts: Sequence[str],
        keep_frames: bool = False,
        progress: Progress | None = None,
        around: Around | None = None,
    ) -> None:
        """Encodes the prompts; without stage prompts, stages judge by the whole one."""
        self.forest.encode()
        if not stage_prompts and any(hasattr(v, "at_stage") for v in self.models.panel.verifiers):
            judged = [r.stage for r in self._most if r.stage is not None]
            stage_prompts = [self.forest.prompt] * (1 + max(judged, default=-1))
        self._queries = self.forest.prepare(stage_prompts)
        self._stages, self._keep_frames, self._progress = len(stage_prompts), keep_frames, progress
        self._around = around or (lambda number, request: nullcontext())
        self._priced = PricedForest(self.forest)

    def resume(self, saved: Saved) -> None:
        """Goes on after the saved rounds."""
        self.forest.restore(saved.states)
        self.forest.ledger = saved.ledger
        self._done = len(saved.rounds)
        self.models.programs.assume(saved.ledger)

    @property
    def ledger(self) -> Ledger:
        return self.forest.ledger

    @property
    def measured(self) -> bool:
        return self.models.programs.measured

    def spent(self) -> Cost:
        return total(self.ledger)

    def price(self, request: Round) -> Cost:
        return self.price_of(request, self._done)

    def price_of(self, request: Round, number: int) -> Cost:
        """What a round takes if it is the one of that index."""
        forest, made = self._priced, children(request)
        forest.ledger = Ledger()
        forest.assume(request.fidelity, [parent.path for parent in request.parents])
        bound = self._bound(request, number)
        self._grow(forest, request, bound)
        if request.judges:
            panel = self.models.judges[self._judges(request)]
            asked, last = self._asked(panel, request), request.judges == "image"

            def score(_, seen):
                forest.score(asked, seen, self._query(request), last)

            self._look(forest, request, list(made), bound[1], score)
        return total(forest.ledger)

    def execute(self, request: Round, nodes: Sequence[Node]) -> None:
        self._check(request)
        bound = self._bound(request, self._done)
        with self._around(self._done, request):
            self._grow(self.forest, request, bound)
            if request.judges:
                self._judge(request, nodes, bound[1])
        self._done += 1

    def forget_all_but(self, nodes: Sequence[Node]) -> None:
        self.forest.keep([Name(node.fidelity, node.path) for node in nodes])

    def values(self, nodes: Sequence[Node]) -> np.ndarray:
        panel = self.models.panel
        scores = np.array([[node.scores[name] for name in panel.names] for node in nodes])
        return self.forest.value(panel, scores, self._widest, None)

    def _bound(self, request: Round, number: int) -> tuple[int, int]:
        """The most parents and branches that this round can have."""
        here = len(request.parents), len(children(request))
        if number < len(self._most):
            planned = self._most[number]
            return max(here[0], planned.parents), max(here[1], planned.width)
        return here

    def _grow(self, forest: Forest, request: Round, bound: tuple[int, int]) -> None:
        report = None
        if self._progress and forest is self.forest:
            planned = sum(r.cost.nfe for r in self._most)

            def report():
                self._progress(min(self.spent().nfe, planned), planned)

        steps = list(growths(children(request)))
        last_use = {path: number for number, step in enumerate(steps) for path in step.parents}
        held = {node.path for node in request.hold if node.fidelity == request.fidelity}
        for number, step in enumerate(steps):
            most = bound if number == 0 else (bound[1], bound[1])
            forest.grow(request.fidelity, step, most, report)
            done = [path for path in step.parents if last_use[path] == number and path not in held]
            forest.drop(request.fidelity, done)

    def _look(
        self,
        forest: Forest,
        request: Round,
        made: Sequence[Path],
        width: int,
        use: Callable[[slice, Seen], None],
    ) -> None:
        """Has what can be seen of a round's branches used, block by block.

        A block that does not fit in memory is seen again in halves.
        """
        start = 0
        while start < len(made):
            rows = self.models.layout(width, 1, share=False).rows
            part = slice(start, start + rows)
            try:
                use(part, forest.look(request.fidelity, made[part], request.estimate, rows))
            except jax.errors.JaxRuntimeError as error:
                if not out_of_memory(error):
                    raise
                self.models.without_memory_for(rows // self.models.mesh.shape[BRANCH])
            else:
                start += rows

    def _judges(self, request: Round) -> str:
        if request.judges not in self.models.judges:
            raise SearchConfigError("a round wants image verifiers, but the panel has none")
        return request.judges

    def _check(self, request: Round) -> None:
        if (links := max(map(paths.links, children(request)))) > self._room:
            raise SearchConfigError(
                f"round {self._done} makes {links} neighbours of neighbours, but plans {self._room}"
            )
        if request.judges:
            self._judges(request)
        if self._stages and request.stage is not None and request.stage >= self._stages:
            raise SearchConfigError(
                f"the search judges {request.stage + 1} stages by {self._stages} stage prompts"
            )

    def _query(self, request: Round) -> dict:
        """By which a round judges; a stage too many is refused when the round is executed."""
        return self._queries[0 if request.stage is None else min(request.stage + 1, self._stages)]

    def _asked(self, panel: Panel, request: Round) -> list:
        """Held-out verifiers are asked about whole videos only."""
        whole = request.to == self.outline.num_segments and request.fidelity == "full"
        return [v for v in panel.verifiers if whole or v.name not in panel.held_out]

    def _judge(self, request: Round, nodes: Sequence[Node], width: int) -> None:
        """Scores the nodes of a round."""
        panel = self.models.judges[request.judges]
        asked = self._asked(panel, request)
        complete = request.to == self.outline.num_segments and request.fidelity == "full"
        scores = np.full((len(nodes), len(panel.names)), np.nan, np.float32)
        columns = [panel.names.index(verifier.name) for verifier in asked]

        def score(part: slice, seen: Seen):
            block, last = nodes[part], request.judges == "image"
            found = self.forest.score(asked, seen, self._query(request), last)
            rows = np.stack(fetch(found), 1)[: len(block)]
            sound = fetch(seen.sound)[: len(block)]
            scores[part, columns] = np.where(sound[:, None], rows, np.nan)
            for name, blocks, wanted in (
                ("frames", seen.frames, complete or self._keep_frames),
                ("latents", seen.latents, complete),
            ):
                for node, value in zip(block, fetch(blocks), strict=False) if wanted else ():
                    setattr(node, name, value)

        self._look(self.forest, request, [node.path for node in nodes], width, score)
        values = self.forest.value(panel, scores, self._widest, request.aggregation)
        for node, row, value in zip(nodes, scores, values, strict=True):
            node.scores = {
                verifier.name: float(row[i]) for i, verifier in zip(columns, asked, strict=True)
            }
            node.value = float(value)
