"""Feynman-Kac steering."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tts_jax.search.presets.common import at_least, check_depths, check_forks, fields, within
from tts_jax.search.rounds import Outline, Round, Rounds, SearchConfigError
from tts_jax.search.selection import ess, systematic, worth
from tts_jax.search.tree import ROOT, Node

# With the values they have where a configuration has none.
FIELDS = dict(particles=4, tilt=10.0, potential="diff", depths=(), resample_below=0.5)
POTENTIALS = ("diff", "max", "add", "value")


def search(config: Any, outline: Outline, rng: np.random.Generator) -> Rounds:
    """Feynman-Kac steering (arXiv 2501.06848): samples that follow p(x) * exp(lambda * r(x)).

    K particles. At a judged depth t the reward r_t of the clean estimate gives each a potential

      diff   exp(lambda * (r_t - r_before))        max    exp(lambda * max of its rewards so far)
      add    exp(lambda * sum of its rewards)      value  exp(lambda * r_t)

    by which its weight is multiplied. If the effective sample size falls below a share of K, the
    particles are resampled systematically and weigh the same again; else weights are carried on.
    At the end the potential is exp(lambda * r_T) over the product of the lineage's potentials, so
    that weighted samples follow the target for every K and any schedule. The search ends with the
    log-weights. Rewards are the panel's weighted sums; a particle without one has no weight.
    Published: lambda 10, K 4, diff or max, judged about every fifth step, resampled always (here
    a share of 1) or below K / 2.

    NFE: K * T. Decodes and calls of each verifier: K at each judged depth and K at the end.

    Args:
      config: `particles`, K; `tilt`, lambda; `potential`; `depths`, segments done when judged
        (all but the last); `resample_below`, the share of K (0.5).
      outline: of the generator.
      rng: draws once per resampling.

    Returns:
      The log-weight of every particle, by path.

    Raises:
      SearchConfigError: numbers that are too small, an unknown potential, depths outside the
        video, a fork that the generator has not.
    """
    own = fields(config, FIELDS)
    at_least(1, particles=own.particles)
    within(0, 1, resample_below=own.resample_below)
    if own.potential not in POTENTIALS:
        raise SearchConfigError(f"potential {own.potential!r} is none of {', '.join(POTENTIALS)}")
    depths = tuple(own.depths) or tuple(range(1, outline.num_segments))
    check_depths(depths, outline, name="depths")
    if own.particles > 1:
        check_forks(outline, depths)

    particles = [Particle(ROOT)]
    counts, label = [own.particles], ""
    for depth in (*depths, outline.num_segments):
        grown = yield Round(
            parents=[particle.node for particle in particles],
            to=depth,
            children=counts,
            estimate="clean",
            judges="panel",
            aggregation="sum",
            label=label,
        )
        before = {particle.node.path: particle for particle in particles}
        last = depth == outline.num_segments
        kind = "last" if last else own.potential
        particles = [before[node.parent].moved(node, kind, own.tilt) for node in grown]
        if last:
            return {particle.node.path: particle.weight for particle in particles}
        particles, counts, label = _resample(particles, own.resample_below, rng)


@dataclass(frozen=True)
class Particle:
    """A branch with its weight.

    Attributes:
      node: the branch.
      weight: logarithm, since the last resampling.
      steered: logarithm of the product of its lineage's potentials.
      rewards: of its lineage, oldest first.
    """

    node: Node
    weight: float = 0.0
    steered: float = 0.0
    rewards: tuple[float, ...] = ()

    def moved(self, node: Node, potential: str, strength: float) -> "Particle":
        """The particle at a node that grew from its own."""
        reward = worth(node)
        if not math.isfinite(reward):
            return Particle(node, -math.inf, self.steered, self.rewards)
        rewards = (*self.rewards, reward)
        steered = {
            "diff": strength * reward,
            "max": self.steered + strength * max(rewards),
            "add": self.steered + strength * sum(rewards),
            "value": self.steered + strength * reward,
            "last": strength * reward,
        }[potential]
        return Particle(node, self.weight + steered - self.steered, steered, rewards)


def _resample(
    particles: Sequence[Particle], share: float, rng: np.random.Generator
) -> tuple[list[Particle], list[int], str]:
    """Particles that go on, with the children of each and what was done."""
    weights = [particle.weight for particle in particles]
    if ess(weights) >= share * len(particles) - 1e-9 and max(weights) > -math.inf:
        return list(particles), [1] * len(particles), "carried"
    drawn = [
        (Particle(particle.node, 0.0, particle.steered, particle.rewards), int(count))
        for particle, count in zip(particles, systematic(weights, rng), strict=True)
        if count
    ]
    return [particle for particle, _ in drawn], [count for _, count in drawn], "systematic"
