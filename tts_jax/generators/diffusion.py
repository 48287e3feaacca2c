"""Full-sequence models of variance-preserving diffusion.

T latent frames  H W latent size  C channels.
"""

import jax.numpy as jnp
from jax import Array

from tts_jax.generators.full_sequence import FullSequence
from tts_jax.solvers import diffusion


class Diffusion(FullSequence):
    """Levels of such models; a family adds its networks and the clean estimate."""

    def _follow_ode(self, latents: Array, clean: Array, here: Array, there: Array) -> Array:
        level, after = self._levels[here], self._levels[there]
        parts = diffusion.Parts(clean, (latents - jnp.sqrt(level) * clean) / jnp.sqrt(1 - level))
        return diffusion.ode_step(parts, after)

    def _noise_again(self, latents: Array, here: int, there: int, normals: Array) -> Array:
        return diffusion.noise_again(latents, self._levels[here], self._levels[there], normals)

    def _add_noise(self, latents: Array, here: int, normals: Array, strength: Array) -> Array:
        return diffusion.add_noise(latents, self._levels[here], normals, strength)
