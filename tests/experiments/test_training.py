"""The shared training loop, on a regression that takes milliseconds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.training import Task, train

DEVICES = jax.local_device_count()


class Killed(Exception):
    pass


def settings(**changes) -> ConfigDict:
    return ConfigDict(
        dict(
            dict(
                steps=12,
                learning_rate=0.05,
                warmup=2,
                decay=4,
                weight_decay=0.0,
                ema=0.9,
                seed=3,
                log_every=1,
                save_every=4,
                evaluate_every=6,
            ),
            **changes,
        )
    )


def task(killed_at: int | None = None) -> Task:
    def batch(step):
        if step == killed_at:
            raise Killed
        x = np.random.default_rng(step).normal(size=(2 * DEVICES, 3)).astype(np.float32)
        return {"x": x, "y": x @ np.array([[1.0], [-2.0], [0.5]], np.float32)}

    def loss(params, batch, key):
        noisy = batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape)
        value = jnp.mean((noisy @ params["kernel"] + params["bias"] - batch["y"]) ** 2)
        return value, {"loss": value}

    return Task(
        params={"kernel": jnp.zeros((3, 1)), "bias": jnp.zeros(1)},
        loss=loss,
        batch=batch,
        evaluate=lambda params, step: {"norm": float(jnp.abs(params["kernel"]).sum())},
    )


def losses(folder):
    return [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]


def test_a_killed_training_goes_on_through_the_same_losses(tmp_path):
    whole = train(task(), settings(), tmp_path / "whole")
    with pytest.raises(Killed):
        train(task(killed_at=10), settings(), tmp_path / "killed")
    resumed = train(task(), settings(), tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert [line["step"] for line in losses(tmp_path / "whole")] == list(range(1, 13))
    np.testing.assert_array_equal(resumed["kernel"], whole["kernel"])


def test_training_lowers_the_loss(tmp_path):
    train(task(), settings(steps=60, decay=20, learning_rate=0.5), tmp_path)
    values = [line["loss"] for line in losses(tmp_path)]
    assert np.mean(values[-5:]) < 0.2 * np.mean(values[:5])


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    broken = task()
    poisoned = Task(
        params=broken.params,
        loss=lambda params, batch, key: (
            jnp.nan * params["bias"].sum(),
            {"loss": jnp.float32(jnp.nan)},
        ),
        batch=broken.batch,
        evaluate=broken.evaluate,
    )
    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        train(poisoned, settings(), tmp_path)
