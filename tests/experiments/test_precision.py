"""experiments.precision: the same branches with parameters of several types, compared."""

import json

import jax
import numpy as np
import pytest

from configs import embedded
from experiments import cli, precision
from experiments.cli import UsageError
from experiments.models import load_models, open_models


def run(*arguments):
    argv = ["precision", "--captions=2", "--branches=2", *arguments]
    return cli.run(precision.main, doc=precision.__doc__, define=precision.define, argv=argv)


@pytest.fixture(scope="module")
def report(checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("reports") / "precision.json"
    places = [f"--config.verifiers[{i}].checkpoint={checkpoint}" for i in (0, 1)]
    shape = "--config.mesh.branch=1", "--config.evaluation.exact=true"
    model = f"--config.generator.checkpoint={checkpoint}", *places, *shape
    assert run("--weights=float32,bfloat16", *model, f"--output={output}") == 0
    return json.loads(output.read_text())


def test_fewer_bits_take_less_memory_and_move_scores_a_little(report):
    assert (report["captions"], report["branches"]) == (2, 2)
    first, second = report["types"]["float32"], report["types"]["bfloat16"]
    assert second["bytes"]["all"] == first["bytes"]["all"] / 2
    assert second["bytes"]["all"] == sum(v for k, v in second["bytes"].items() if k != "all")
    assert set(second["verifiers"]) == {"clip", "viclip", "flicker"}
    for name, kinds in second["verifiers"].items():
        assert 0 < kinds["own_videos"]["mean"] <= kinds["own_videos"]["max"] < 1
        assert (kinds["same_videos"]["max"] == 0) == (name == "flicker")  # it has no parameters
    assert 0 < second["frames"]["mean"] < 0.05


def test_the_first_type_is_no_way_from_itself(report):
    first = report["types"]["float32"]
    assert first["frames"] == {"mean": 0, "max": 0} and first["same_winner"] == 1
    for kinds in first["verifiers"].values():
        for figures in kinds.values():
            assert figures["max"] == 0 and figures["correlation"] == pytest.approx(1)


def test_drift_is_told_in_size_direction_and_order():
    reference = np.array([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]])
    moved = np.array([[0.5, 1.5, -0.5], [5.0, 5.0, 5.0]])
    found = precision.drift(moved, reference)
    assert found["bias"] == pytest.approx(-0.25) and found["mean"] == pytest.approx(3.5 / 6)
    assert found["max"] == 2.5
    assert found["deviation"] == pytest.approx(np.sqrt(2 / 3) / 2)
    assert found["correlation"] == pytest.approx((-0.5 + 1) / 2)


def test_choices_are_compared_caption_by_caption():
    frames, scores = np.zeros((2, 2, 1, 1, 1, 3)), np.arange(4.0).reshape(2, 2, 1)
    shared = dict(verifiers=("clip",), scores=scores, reference_scores=scores)
    graded = np.array([[[1, 1.0], [0, 0.5]], [[0, 0.2], [0, 0.4]]])
    first = precision.Measured(
        nbytes={"a": 8}, frames=frames, grades=graded, picked=np.array([0, 1]), **shared
    )
    second = precision.Measured(
        nbytes={"a": 2, "b": 1}, frames=frames, grades=graded, picked=np.array([1, 1]), **shared
    )
    found = precision.compare({"float32": first, "int8": second})["int8"]
    assert found["bytes"] == {"a": 2, "b": 1, "all": 3}
    assert (found["same_winner"], found["success"], found["oracle_success"]) == (0.5, 0, 0.5)
    assert found["facts"] == pytest.approx(0.45) and found["same_winner_interval"] == (0, 1)


def test_every_network_of_a_config_is_held_in_its_type():
    """The sizes that --dry_run prints, and those of plans, are of what is held."""
    config = embedded.get_config()
    whole = open_models(config, None)[1::2]
    config.precision.weights = "int8"
    held, planned = load_models(config), open_models(config, None)[1::2]
    for name, params in {**held.generator_params, **held.verifier_params}.items():
        part = next(p for p in held.memory.parts if p.name.removeprefix("pyramid_flow: ") == name)
        sizes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        assert part.nbytes == sizes and part.dtype == ("int8" if params else "")
        like = whole[0].get(name, whole[1].get(name))
        assert sizes <= 0.32 * 4 * sum(leaf.size for leaf in jax.tree.leaves(like))
        assert part.numbers == sum(leaf.size for leaf in jax.tree.leaves(like))
    loaded = jax.tree.map(
        lambda x: (x.shape, x.dtype), (held.generator_params, held.verifier_params)
    )
    assert loaded == jax.tree.map(lambda x: (x.shape, x.dtype), planned)


def test_types_that_cannot_be_compared_are_refused_in_one_line(capsys, tmp_path):
    for given, message in (
        ("--weights=float32,int4", "'int4' are none of stored, float32, bfloat16, int8"),
        ("--weights=int8", "two or more types"),
        (f"--output={tmp_path}/none/out.json", "folder of --output"),
    ):
        assert run(given) == cli.EXIT_BAD_INPUT
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0]
    config = embedded.get_config()
    config.precision.weights = "int4"
    with pytest.raises(UsageError, match="'int4' are none of"):
        load_models(config)
