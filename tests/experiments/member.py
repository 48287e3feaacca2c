"""One process of a job: programs of `experiments` on small models, one after the other.

python -m tests.experiments.member '[["generate", "--prompt=..."], ["sweep", ...]]'
"""

import json
import os
import signal
import sys

from experiments import cli, generate, models, sweep, vbench
from experiments.models import Models
from tests.experiments.test_vbench import NETWORKS
from tests.search.analytic import Exact, Flow, Linear, Mixture, direction
from tts_jax.language.stage_prompts import load_stage_prompts
from tts_jax.search.store import RoundStore
from tts_jax.verifiers.panel import Panel

PROGRAMS = {"generate": generate, "sweep": sweep, "vbench": vbench}


def load(config, prompts, *, mesh, **_):
    """A generator of three segments and a verifier, with nothing to read."""
    generator, verifier = Exact(Mixture.random(frames=1), Flow, 3, 1, 1), Linear(direction(3))
    return Models(
        generator=generator,
        generator_params=generator.params,
        panel=Panel([verifier]),
        verifier_params={verifier.name: {}},
        world=None,
        stage_prompts=load_stage_prompts({"source": "prompt"}, None),
        mesh=mesh,
    )


def run(argv):
    """A program's exit code."""
    program = PROGRAMS[argv[0]]
    loads = models.load_models, vbench.load_networks
    models.load_models = load
    vbench.load_networks = lambda folders: {name: NETWORKS[name] for name in folders}
    kept = {"config": "sweep.py"} if argv[0] == "sweep" else {}
    try:
        return cli.run(program.main, doc=program.__doc__, define=program.define, argv=argv, **kept)
    finally:
        models.load_models, vbench.load_networks = loads


def caption(frames):
    """A detector: whether a frame is bright."""
    return ["a bright one" if frame.mean() > 127 else "a dark one" for frame in frames]


def die_in_mid_run():
    """Has this process killed when it has saved a round of a search."""
    save = RoundStore.save

    def last(self, saved):
        save(self, saved)
        os.kill(os.getpid(), signal.SIGKILL)

    RoundStore.save = last


if __name__ == "__main__":
    if "DIES" in os.environ:
        die_in_mid_run()
    sys.exit(next(filter(None, map(run, json.loads(sys.argv[1]))), 0))
