"""Full-sequence models of rectified flow.

T latent frames  H W latent size  C channels.
"""

from jax import Array

from tts_jax.generators.full_sequence import FullSequence
from tts_jax.solvers import rectified_flow


class RectifiedFlow(FullSequence):
    """Levels of such models; a family adds its networks and the clean estimate."""

    def _follow_ode(self, latents: Array, clean: Array, here: Array, there: Array) -> Array:
        return rectified_flow.ode_step(latents, clean, self._levels[here], self._levels[there])

    def _noise_again(self, latents: Array, here: int, there: int, normals: Array) -> Array:
        return rectified_flow.noise_again(latents, self._levels[here], self._levels[there], normals)

    def _add_noise(self, latents: Array, here: int, normals: Array, strength: Array) -> Array:
        return rectified_flow.add_noise(latents, self._levels[here], normals, strength)
