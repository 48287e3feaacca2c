"""What the video autoencoders share."""

import jax
import jax.numpy as jnp
from jax import Array


def silu(x: Array) -> Array:
    """x times its logistic function, computed in float32, of any shape and type."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def posterior_mode(moments: Array) -> Array:
    """The mean, [..., C], of posterior moments [..., 2C]."""
    return jnp.split(moments, 2, axis=-1)[0]


def posterior_sample(moments: Array, noise: Array) -> Array:
    """A draw from the posterior.

    Args:
      moments: mean and log-variance, [..., 2C].
      noise: standard normal, [..., C].

    Returns:
      mean + exp(logvar / 2) * noise with the log-variance clamped to [-30, 20], [..., C].
    """
    mean, logvar = jnp.split(moments, 2, axis=-1)
    return mean + jnp.exp(0.5 * jnp.clip(logvar, -30.0, 20.0)) * noise
