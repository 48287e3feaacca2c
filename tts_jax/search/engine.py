"""Searches on devices: models on a mesh, and a forest of branches for each prompt."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from tts_jax.parallel import fetch
from tts_jax.search import paths
from tts_jax.search.budget import Budget
from tts_jax.search.execution import ROOMS, Around, Execution, Progress
from tts_jax.search.forest import Forest, timed
from tts_jax.search.growth import growths
from tts_jax.search.loop import Record, drive
from tts_jax.search.models import Models, SearchFault
from tts_jax.search.paths import Path
from tts_jax.search.plan import Plan, Scores, plan
from tts_jax.search.presets import Preset
from tts_jax.search.results import Saved, SearchResult, Store, Video
from tts_jax.search.rounds import SearchConfigError


class Search(Models):
    """A generator and a panel on a mesh, ready to search for many prompts.

    A branch depends on (seed, prompt index, path) alone: key(child) = fold_in(key(parent), index).
    In exact mode its bits do too, whatever the search and the mesh; else rounding depends on the
    batch, siblings are computed together, and what depends on their parent alone is computed once.
    """

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
        run = Execution(self, prompt, preset, budget, **options)
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
        run = Execution(self, prompt, preset, budget, **options)
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
