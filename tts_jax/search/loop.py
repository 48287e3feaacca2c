"""The one loop of every search: expand, advance, estimate, score, select.

T frames  H W frame size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from tts_jax.generators.protocol import Generator, Params
from tts_jax.parallel import BRANCH, branch_mesh, replicate
from tts_jax.search import expansion
from tts_jax.search.expansion import Layout, Row
from tts_jax.search.forest import Forest
from tts_jax.search.ledger import Ledger
from tts_jax.search.programs import Programs
from tts_jax.search.rounds import Round, RoundPlan, SearchConfigError, plan
from tts_jax.search.selection import Path, ranking
from tts_jax.search.tree import Node
from tts_jax.verifiers.panel import Panel

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Video:
    """One complete branch.

    Attributes:
      path: its child indices.
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
      candidates: the complete videos among them, with frames and latents.
      ledger: the cost of this search.
    """

    best: Video
    nodes: tuple[Node, ...]
    candidates: tuple[Node, ...]
    ledger: Ledger

    def to_json(self) -> dict:
        """The tree with its costs; equal for equal seeds, so that it holds no times."""
        return {
            "best": list(self.best.path),
            "nodes": [node.to_json() for node in self.nodes],
            "cost": self.ledger.to_json(repeatable=True),
        }


class Search:
    """A generator and a panel on a mesh, ready to search for many prompts.

    A branch depends on (seed, prompt index, path) alone: key(child) = fold_in(key(parent), index).
    In exact mode its bits do too, whatever the search and the mesh; else rounding depends on the
    batch, siblings are computed together, and what depends on their parent alone is computed once.

    Attributes:
      programs: the executables, shared by all prompts.
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
    ):
        """Copies the parameters to the devices.

        Args:
          generator: makes the videos.
          params: its parameters.
          panel: judges them.
          verifier_params: verifier name to parameters.
          mesh: has the axis `branch`; all devices if None.
          micro_batch: the most branches a device works on at once; 0 for any number.
          exact: each device works on one branch at a time, which is slower; None: on CPU alone.

        Raises:
          SearchConfigError: a negative micro-batch.
        """
        if micro_batch < 0:
            raise SearchConfigError(f"micro_batch is {micro_batch}, but it counts branches")
        self.mesh = branch_mesh() if mesh is None else mesh
        if exact is None:
            exact = self.mesh.devices.flat[0].platform == "cpu"
        self.generator = generator
        self.panel = panel
        self.params = replicate(params, self.mesh)
        self.verifier_params = replicate(
            {v.name: verifier_params[v.name] for v in panel.verifiers}, self.mesh
        )
        self.programs = Programs()
        self._judges = {"panel": panel}
        pairs = zip(panel.verifiers, panel.weights, strict=True)
        if image := [(v, w) for v, w in pairs if v.needs == "image"]:
            self._judges["image"] = Panel(*zip(*image, strict=True), panel.aggregation)
        self._layout = partial(
            expansion.layout,
            devices=self.mesh.shape[BRANCH],
            micro_batch=micro_batch,
            exact=exact,
        )

    def run(
        self,
        prompt: str,
        rounds: Sequence[Round],
        *,
        seed: int = 0,
        prompt_index: int = 0,
        stage_prompts: Sequence[str] = (),
        keep_frames: bool = True,
        progress: Progress | None = None,
    ) -> SearchResult:
        """Searches for one prompt.

        Args:
          prompt: the text.
          rounds: the search, as a preset gives it.
          seed: of everything random.
          prompt_index: the prompt's place among those of the run.
          stage_prompts: what rounds with a stage judge by; the whole prompt if there are none.
          keep_frames: whether the nodes of incomplete videos hold the frames they were judged by.
          progress: called with the denoiser calls made and planned, whenever some were made.

        Raises:
          SearchConfigError: rounds that fit neither the generator nor the panel nor the stages.
          ValueError: a prompt that a model cannot take.
        """
        plans = plan(rounds, self.generator)
        self._check(rounds, stage_prompts)
        shapes = [self._shapes(r, p) for r, p in zip(rounds, plans, strict=True)]
        forest = Forest(self, prompt, seed, prompt_index)
        queries = forest.prepare([prompt, *stage_prompts])
        forest.plant(max(capacity for round_shapes in shapes for _, capacity in round_shapes))

        planned = sum(p.nfe for p in plans)
        report = progress and (lambda: progress(forest.ledger["generator"].nfe, planned))
        nodes: list[Node] = []
        for index, (r, p) in enumerate(zip(rounds, plans, strict=True)):
            depth, last = r.segments[0], r.segments[-1]
            for segment, (shape, _) in zip(r.segments, shapes[index], strict=True):
                forest.grow(segment, r.children if segment == depth else 1, shape, report)
            grown = [Node(path, path[:depth], index) for path in forest.paths]
            if r.select is not None:
                query = queries[0 if r.stage is None or not stage_prompts else r.stage + 1]
                complete = last == self.generator.num_segments - 1
                self._judge(forest, grown, r, p, query, complete or keep_frames, complete)
                forest.prune([i for i, node in enumerate(grown) if node.kept])
            nodes += grown

        candidates = tuple(node for node in nodes if node.latents is not None)
        values = np.array([node.value for node in candidates])
        winner = candidates[ranking(values, [node.path for node in candidates])[0]]
        return SearchResult(
            best=Video(path=winner.path, latents=winner.latents, frames=winner.frames),
            nodes=tuple(nodes),
            candidates=candidates,
            ledger=forest.ledger,
        )

    def replay(self, prompt: str, path: Path, *, seed: int = 0, prompt_index: int = 0) -> Video:
        """Makes one video again from its path, alone.

        Raises:
          SearchConfigError: the path's length is not that of a video.
        """
        if len(path) != self.generator.num_segments:
            raise SearchConfigError(
                f"path {path} is not one of {self.generator.num_segments} segments"
            )
        shape = self._layout(1, 1, share=False)
        forest = Forest(self, prompt, seed, prompt_index)
        forest.plant(shape.capacity(1, 1))
        for segment, child in enumerate(path):
            forest.advance(segment, [Row(forest.slots[0], (child,))], shape)
            forest.paths, forest.slots = [tuple(path[: segment + 1])], [0]
        (seen,) = forest.decode(len(path) - 1, shape)
        latents, frames = np.asarray(seen.latents)[0], np.asarray(seen.frames)[0]
        return Video(path=tuple(path), latents=latents, frames=frames)

    def _check(self, rounds: Sequence[Round], stage_prompts: Sequence[str]) -> None:
        judged = [r for r in rounds if r.select is not None]
        if any(r.judges not in self._judges for r in judged):
            raise SearchConfigError("a round wants image verifiers, but the panel has none")
        stages = 1 + max((r.stage for r in judged if r.stage is not None), default=-1)
        if stage_prompts and stages > len(stage_prompts):
            raise SearchConfigError(
                f"the search judges {stages} stages by {len(stage_prompts)} stage prompts"
            )

    def _shapes(self, r: Round, p: RoundPlan) -> list[tuple[Layout, int]]:
        """Call shape and pool capacity of each segment of a round."""
        # At the root there is nothing yet that siblings could share.
        first = self._layout(p.parents, r.children, share=r.segments[0] > 0)
        then = self._layout(p.width, 1, share=False)
        return [
            (first, first.capacity(p.parents, r.children)),
            *[(then, then.capacity(p.width, 1))] * (len(r.segments) - 1),
        ]

    def _judge(
        self,
        forest: Forest,
        grown: list[Node],
        r: Round,
        p: RoundPlan,
        query: dict,
        keep_frames: bool,
        complete: bool,
    ) -> None:
        """Scores the nodes of a round and marks those that stay."""
        panel = self._judges[r.judges]
        scores, done = [], 0
        for seen in forest.decode(r.segments[-1], self._layout(p.width, 1, share=False)):
            scores.append(forest.score(panel, seen, query))
            block = grown[done : done + seen.live]
            done += seen.live
            for name, blocks, wanted in (
                ("frames", seen.frames, keep_frames),
                ("latents", seen.latents, complete),
            ):
                for node, value in zip(block, np.asarray(blocks), strict=False) if wanted else ():
                    setattr(node, name, value)
        scores = np.concatenate([np.stack(columns, 1) for columns in jax.device_get(scores)])
        scores = scores[: len(grown)]
        values = forest.value(panel, scores, p.width)
        for node, row, value in zip(grown, scores, values, strict=True):
            node.scores = dict(zip(panel.names, row.tolist(), strict=True))
            node.value, node.kept = float(value), False
        paths, parents = [n.path for n in grown], [n.parent for n in grown]
        for i in r.select(values, paths, parents):
            grown[i].kept = True
