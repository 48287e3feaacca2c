"""A config's models are loaded as named, and what cannot be is one error."""

import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from configs.embedded import get_config
from experiments import summary
from experiments.cli import UsageError
from experiments.memory import MemoryPlan
from experiments.models import load_models, load_search
from tts_jax.checkpoints import CheckpointError
from tts_jax.language.tokenizer import PromptError
from tts_jax.parallel import make_mesh

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
    assert models.memory.generator == sum(x.size for x in jax.tree.leaves(models.generator_params))
    assert set(models.verifier_params) == set(models.panel.names)


def test_what_known_prompts_need_no_more_is_freed(config):
    whole, models = load_models(config), load_models(config, [PROMPT, "a red circle moving up"])
    assert set(whole.generator_params) - set(models.generator_params) == {"text"}
    assert {prompt for _, prompt in models.conditions} == {PROMPT, "a red circle moving up"}
    found = models.conditions["full", PROMPT].condition
    wanted = whole.generator.encode(whole.generator_params, [PROMPT])
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[0]), found, wanted)
    held = {part.name: part.phases for part in models.memory.parts}
    assert held["pyramid_flow: text"] == ("text",)
    assert held["pyramid_flow: vae"] == ("text", "search")
    assert held["clip"] == ("search",)
    sizes = [sum(x.nbytes for x in jax.tree.leaves(p)) for p in models.verifier_params.values()]
    generator = sum(x.nbytes for x in jax.tree.leaves(models.generator_params))
    assert models.memory.held("search") == generator + sum(sizes)


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


def test_the_memory_plan_counts_what_each_device_of_a_mesh_holds():
    memory = MemoryPlan(make_mesh(2, 4, 1))
    params = {
        "q": {"kernel": jax.ShapeDtypeStruct((3, 64, 128), jnp.bfloat16)},
        "norm": {"scale": jax.ShapeDtypeStruct((3, 128), jnp.float32)},
    }
    memory.add("judge", params, "search")
    memory.add("language model", params, "stage prompts", divided=False)
    assert memory.held("search") == 3 * 64 * 128 * 2 // 4 + 3 * 128 * 4
    assert memory.held("stage prompts") == 3 * 64 * 128 * 2 + 3 * 128 * 4
    assert [part.numbers for part in memory.parts] == [3 * 64 * 128 + 3 * 128] * 2
    console = Console(file=io.StringIO(), width=120)
    summary.print_memory(console, memory)
    assert "on each device of a mesh of branch 2, model 4" in console.file.getvalue()


def test_the_memory_plan_is_printed_by_part_and_phase():
    memory = MemoryPlan()
    shape = jax.ShapeDtypeStruct((10**5, 10**4), jnp.bfloat16)
    memory.add("t5", {"w": shape}, "text")
    memory.add("vae", {"w": shape, "v": shape}, "text", "search")
    memory.add("judge", {"w": shape}, "search", dtype=jnp.dtype("float32"))
    console = Console(file=io.StringIO(), width=120)
    summary.print_memory(console, memory)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert "1. encode prompts 2. search".split() == rows[2][3:]
    assert ["t5", "bfloat16", "1,000,000,000", "2.0", "GB"] in rows
    assert ["vae", "bfloat16", "2,000,000,000", "4.0", "GB", "4.0", "GB"] in rows
    assert ["judge", "float32", "1,000,000,000", "4.0", "GB"] in rows
    assert ["all", "6.0", "GB", "8.0", "GB"] in rows


def test_a_folder_of_executables_is_made_for_the_models_that_are_loaded(config, tmp_path):
    models = load_models(config)
    config.executables = str(tmp_path / "kept")
    load_search(config, models)
    config.micro_batch = 2  # another search on the same models
    with pytest.warns(UserWarning, match="made with other settings of the models; compiling"):
        load_search(config, models)
    assert len(list(tmp_path.glob("kept/*/surroundings.json"))) == 2
    (tmp_path / "file").write_text("")
    config.executables = str(tmp_path / "file")
    with pytest.raises(UsageError, match=r"config\.executables=.*file cannot be used"):
        load_search(config, models)
