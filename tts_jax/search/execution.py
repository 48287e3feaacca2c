"""The rounds of one search, executed on the devices.

W branches  V verifiers.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import jax
import numpy as np

from tts_jax.parallel import BRANCH, fetch
from tts_jax.search import paths
from tts_jax.search.budget import Budget, total
from tts_jax.search.forest import Forest, PricedForest, Seen
from tts_jax.search.growth import children, growths
from tts_jax.search.ledger import Cost, Ledger
from tts_jax.search.models import Models, out_of_memory
from tts_jax.search.paths import Path
from tts_jax.search.plan import bounds
from tts_jax.search.pools import Name
from tts_jax.search.presets import Preset
from tts_jax.search.results import Saved
from tts_jax.search.rounds import Round, SearchConfigError
from tts_jax.search.tree import Node
from tts_jax.verifiers.panel import Panel

Progress = Callable[[int, int], None]
Around = Callable[[int, Round], AbstractContextManager]


# Links that a chain of keys has room for; a search takes the first that suffices. Searches without
# moves have room too: what is drawn from a plain key is rounded differently.
ROOMS = (15, 63)


class Execution:
    """Executes the rounds of one search on the devices; see `loop.Executor`."""

    def __init__(
        self,
        models: Models,
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
