"""Full-sequence models of variance-preserving diffusion, whose solvers' steps are linear.

T latent frames  H W latent size  C channels  N steps.
"""

from functools import cached_property

import jax.numpy as jnp
from jax import Array

from tts_jax.generators.full_sequence import Branch, FullSequence
from tts_jax.solvers import diffusion, noise
from tts_jax.solvers.diffusion import Coefficients
from tts_jax.solvers.noise import Key


class Diffusion(FullSequence):
    """Steps of such models; a family adds its networks and the clean estimate.

    `config.sampler.schedule` has the levels of all states, [N + 1], and the `Coefficients` of all
    steps, [N].
    """

    @property
    def stochastic(self) -> bool:
        """Whether the solver draws noise."""
        return bool(self._schedule.coefficients.noise.any())

    @property
    def _schedule(self):
        return self.config.sampler.schedule

    @property
    def _levels(self) -> Array:
        return jnp.asarray(self._schedule.levels, jnp.float32)

    @cached_property
    def _steps(self) -> Coefficients:
        count = self.config.sampler.steps_per_segment
        return self._schedule.coefficients.between_stops(1, count)

    def _predict(self, branch: Branch, index: Array, key: Key) -> Array:
        row = Coefficients(*(jnp.asarray(x, jnp.float32)[index + 1] for x in self._steps))
        latents = (
            row.latents * branch.latents + row.clean * branch.clean + row.previous * branch.previous
        )
        if self.stochastic:
            latents = latents + row.noise * noise.normal(key, latents.shape)
        return latents

    def _follow_ode(self, latents: Array, clean: Array, here: Array, there: Array) -> Array:
        level, after = self._levels[here], self._levels[there]
        parts = diffusion.Parts(clean, (latents - jnp.sqrt(level) * clean) / jnp.sqrt(1 - level))
        return diffusion.ode_step(parts, after)

    def _noise_again(self, latents: Array, here: int, there: int, normals: Array) -> Array:
        return diffusion.noise_again(latents, self._levels[here], self._levels[there], normals)

    def _add_noise(self, latents: Array, here: int, normals: Array, strength: Array) -> Array:
        return diffusion.add_noise(latents, self._levels[here], normals, strength)
