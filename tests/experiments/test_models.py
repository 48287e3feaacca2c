"""A config's models are loaded as named, and what cannot be is one error."""

import json
import shutil

import pytest

from configs.embedded import get_config
from experiments.cli import UsageError
from experiments.models import load_models, parameter_count
from tts_jax.checkpoints import CheckpointError
from tts_jax.language.tokenizer import PromptError

PROMPT = "a red circle moving right and a blue square moving up"


@pytest.fixture
def config(checkpoint):
    config = get_config()
    config.generator.checkpoint = str(checkpoint)
    for entry in config.verifiers:
        entry["checkpoint"] = str(checkpoint)
    return config


def test_models_come_as_the_config_names_them(config):
    config.verifiers[1]["weight"] = 0.25
    models = load_models(config)
    assert models.panel.names == tuple(entry["name"] for entry in config.verifiers)
    assert models.panel.weights[1] == 0.25
    assert models.generator.num_segments == 5
    assert parameter_count(models.generator_params) > 1000
    assert set(models.verifier_params) == set(models.panel.names)


def test_the_world_is_the_checkpoints(config):
    models = load_models(config)
    assert models.stage_prompts(PROMPT) == (
        "a red circle and a blue square",
        PROMPT,
        "a red circle and a blue square",
    )
    models.check([PROMPT])
    with pytest.raises(PromptError, match="'teapot'"):
        models.check([PROMPT, "a red teapot moving right"])
    with pytest.raises(UsageError, match="COLOUR SHAPE MOTION"):
        models.check(["a red circle"])


def test_without_a_world_stages_need_another_source(config, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "other")
    fields = json.loads((checkpoint / "config.json").read_text())
    del fields["world"]
    (tmp_path / "other" / "config.json").write_text(json.dumps(fields))
    config.generator.checkpoint = str(tmp_path / "other")
    with pytest.raises(UsageError, match="choose the source file, model or prompt"):
        load_models(config)
    config.stage_prompts.source = "prompt"
    models = load_models(config)
    models.check(["a red circle"])
    assert models.stage_prompts("a red circle") == ("a red circle",) * 3


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        (("generator", "name"), "stable_video", "unknown generator 'stable_video'"),
        (("generator", "checkpoint"), "/no/such/folder", "does not exist"),
        (("verifiers", 0, "name"), "clop", "unknown verifier 'clop'"),
        (("verifiers", 0, "checkpoint"), "/no/such/folder", "does not exist"),
        (("verifiers", 0, "name"), "viclip", "different names"),
        (("panel", "aggregation"), "mean", "aggregation 'mean'"),
    ],
)
def test_what_does_not_exist_is_one_error(config, field, value, error):
    *path, last = field
    place = config
    for key in path:
        place = place[key]
    place[last] = value
    with pytest.raises((UsageError, CheckpointError), match=error):
        load_models(config)
