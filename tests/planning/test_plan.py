"""Plans of configured searches, for four v5e chips; only the smallest programs are compiled."""

import json
import math
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from configs import cogvideox_5b, pyramid_flow_flux_768p, study_video_t1
from experiments import cli, plan
from experiments.models import open_models
from experiments.sweep import read_studies
from tts_jax.checkpoints import flatten
from tts_jax.parallel import make_mesh
from tts_jax.planning import chips
from tts_jax.planning.published import published_generator
from tts_jax.search import Outline

LINEAR = ("--topology=v5e:2x2", "--config.search.preset=random_linear")


def run(*arguments):
    return cli.run(plan.main, doc="", define=plan.define, argv=["plan", *arguments])


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """What the program writes for the embedded model; it compiles `flicker` and `root`."""
    folder = tmp_path_factory.mktemp("plan")
    only = "--only=flicker|root"
    assert run(*LINEAR, "--config.search.branches=6", only, f"--output={folder}") == 0
    return folder


def test_a_plan_says_what_each_program_takes(planned):
    found = json.loads((planned / "plan.json").read_text())
    assert (
        found["mesh"] == {"branch": 4, "model": 1, "sequence": 1} and found["chip"]["name"] == "v5e"
    )
    programs = {row["name"].split(" full")[0]: row for row in found["programs"]}
    assert {"text", "root", "advance", "see", "score clip", "score viclip"} <= set(programs)
    for name in ("root", "score flicker"):
        row = programs[name]
        assert row["compiled"] and row["fits"] and row["compiler_seconds"] > 0
        assert row["held"] + row["temporaries"] <= row["peak"] < found["chip"]["memory"]
        assert not row["collectives"] and not row["unestimated"]
    clip = programs["score clip"]
    assert not clip["compiled"] and clip["seconds"] == clip["roofline_seconds"] > 0
    advance = [row for row in found["programs"] if row["name"].startswith("advance")]
    # 6 branches on 4 chips are two a chip
    assert [row["calls"] for row in advance] == [1, 4]


def test_a_model_axis_divides_what_each_chip_holds(planned, tmp_path):
    options = ("--config.search.branches=2", "--config.mesh.model=2", "--only=^text")
    assert run(*LINEAR, *options, f"--output={tmp_path}") == 0
    whole, parts = (json.loads((f / "plan.json").read_text()) for f in (planned, tmp_path))
    assert parts["mesh"] == {"branch": 2, "model": 2, "sequence": 1}
    for phase in ("text", "search"):
        assert 0.45 < parts["held"][phase] / whole["held"][phase] < 0.7
    text = parts["programs"][0]
    assert text["compiled"] and text["chips"] == 2 and text["collectives"]
    advance = [
        [p["flops"] for p in f["programs"] if "advance" in p["name"]] for f in (whole, parts)
    ]
    # 2 branches instead of 8, of which 2 are padding
    assert advance[1] == pytest.approx([flops / 4 for flops in advance[0]], rel=0.05)


def test_a_plan_of_memory_alone_has_no_seconds_of_the_compiler(planned, tmp_path):
    options = ("--config.search.branches=6", "--only=flicker", "--memory_only")
    assert run(*LINEAR, *options, f"--output={tmp_path}") == 0
    whole, quick = (
        next(
            p
            for p in json.loads((f / "plan.json").read_text())["programs"]
            if "flicker" in p["name"]
        )
        for f in (planned, tmp_path)
    )
    assert quick["compiled"] and quick["fits"] and "compiler_seconds" not in quick
    assert quick["peak"] == pytest.approx(whole["peak"], rel=0.05)
    assert quick["seconds"] == quick["roofline_seconds"]


@pytest.mark.parametrize("model", [2, 4, 8])
def test_a_model_is_divided_over_any_power_of_two_of_a_slice_s_chips(model):
    _, devices = chips.tpu_devices("v6e:4x4")
    mesh = make_mesh(0, model, devices=devices)
    assert dict(mesh.shape) == {"branch": 16 // model, "model": model, "sequence": 1}
    for group in mesh.devices.reshape(-1, model):  # neighbours, in rows or in blocks
        spans = np.ptp([device.coords for device in group], axis=0) + 1
        assert math.prod(spans.tolist()) == model


def test_a_plan_prices_searches_of_every_size(planned):
    searches = json.loads((planned / "plan.json").read_text())["searches"]
    costs = [searches[f"random_linear, N={n}"]["device_seconds"] for n in (1, 2, 4, 8, 16, 32)]
    assert costs == sorted(costs) and 0 < costs[0] and costs[3] < costs[4] < costs[5] < 9 * costs[2]
    six = searches["random_linear"]
    assert costs[2] < six["device_seconds"] <= costs[3]
    assert six["seconds"] < six["device_seconds"] < 4.1 * six["seconds"]


def test_the_table_can_be_read(planned):
    text = (planned / "plan.txt").read_text()
    assert max(map(len, text.splitlines())) <= 160
    for words in (
        "H100 roofline s",
        "device-seconds",
        "libtpu",
        "N=32",
        "score flicker",
        "v5e:2x2",
    ):
        assert words in text
    row = next(line for line in text.splitlines() if "score clip" in line)
    assert re.search(r" - +- +- +\(", row)  # not compiled: no memory, seconds in brackets


def test_a_grid_is_priced_whole(tmp_path):
    study = Path(study_video_t1.__file__)
    arguments = (f"--config={study}:nova_d48w1024_osp480", "--only=nothing", "--topology=v5e:4x4")
    assert run(*arguments, "--config.sweep.seeds=(0,1)", f"--output={tmp_path}") == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    grid, searches = found["grid"], found["searches"]
    costs = grid["device_seconds"]
    # N = 30 holds every smaller one for every panel
    assert costs["random_linear, all panels"] == searches["random_linear"]["device_seconds"]
    trees = {name: costs[f"tree_of_frames, {name}"] for name in study_video_t1.JUDGES}
    assert len(costs) == 2 + len(trees)
    # a judge that has no weight in a panel sees the last videos only
    assert max(trees.values()) < costs["tree_of_frames, all"] < sum(trees.values())
    assert grid["runs"] == 2 * study_video_t1.PROMPTS
    assert grid["device_hours"] == pytest.approx(grid["runs"] * sum(costs.values()) / 3600)
    assert "device-hours" in (tmp_path / "plan.txt").read_text()


def _outline(generator) -> Outline:
    nfe = map(generator.nfe, range(generator.num_segments))
    return Outline(units=tuple(generator.units), nfe=tuple(nfe))


@pytest.mark.parametrize("model", study_video_t1.MODELS)
def test_the_trees_of_the_study_fit_its_models(model):
    config = study_video_t1.get_config(model)
    fields = {n: value for n, value in config.generator.items() if n != "image"}
    generator = published_generator(fields.pop("name"), fields.pop("checkpoint"), **fields)
    studies = read_studies(config.sweep.searches, _outline(generator))
    counts = {study.name: [point.nfe for point in study.points] for study in studies}
    video = sum(map(generator.nfe, range(generator.num_segments)))
    assert counts["random_linear"] == [n * video for n in reversed(study_video_t1.SAMPLES)]
    assert ("tree_of_frames" in counts) == (len(generator.units) > 1)
    for nfe, linear in zip(counts.get("tree_of_frames", ()), counts["random_linear"], strict=False):
        assert 0.3 < nfe / linear < 0.75


def test_seconds_that_leave_instructions_out_are_marked(planned):
    programs = json.loads((planned / "plan.json").read_text())["programs"]
    row = next(row for row in programs if row["compiled"])
    assert plan._cells(row)[-3] == f"{row['compiler_seconds']:.3g}"
    assert plan._cells(row | {"unestimated": 8.0})[-3] == f">{row['compiler_seconds']:.3g}"


def test_a_checkpoint_that_is_missing_is_the_published_one():
    for config, count in ((cogvideox_5b, 10.55e9), (pyramid_flow_flux_768p, 7.19e9)):
        config = config.get_config()
        with config.unlocked():
            config.verifiers = (dict(name="videollama3", checkpoint="checkpoints/videollama3"),)
        generator, params, panel, verifiers = open_models(config, jnp.bfloat16)
        leaves = flatten(params).values()
        assert sum(x.size for x in leaves) == pytest.approx(count, rel=1e-3)
        assert all(x.dtype == jnp.bfloat16 for x in leaves)
        judge = sum(x.size for x in flatten(verifiers["videollama3"]).values())
        assert 7.5e9 < judge < 8.5e9 and panel.names == ("videollama3",)
        assert generator.config.sampler.guidance == config.generator.guidance


@pytest.mark.slow
def test_a_text_encoder_of_full_size_compiles_for_four_chips_and_fits(tmp_path):
    config = f"--config={cogvideox_5b.__file__}"
    options = "--topology=v5e:2x2", "--config.search.branches=1", "--only=^text"
    options += ("--config.mesh.model=1",)
    assert run(config, *options, f"--output={tmp_path}") == 0
    text, *others = json.loads((tmp_path / "plan.json").read_text())["programs"]
    assert text["compiled"] and text["fits"] and not any(row["compiled"] for row in others)
    t5 = 4.76e9  # parameters of T5-XXL's encoder
    assert text["held"] == pytest.approx(2 * t5, rel=0.01)
    assert text["held"] <= text["arguments"] <= text["peak"] < 1.1 * text["held"]
    # two texts of 226 tokens, two operations for each parameter but those of the vocabulary
    assert text["flops"] == pytest.approx(2 * 2 * 226 * (t5 - 32128 * 4096), rel=0.05)
    assert text["roofline_seconds"] <= text["compiler_seconds"] < 0.2


def test_what_cannot_be_planned_is_one_sentence(capsys, monkeypatch):
    refused = {
        ("--topology=v9:2x2",): "topology 'v9:2x2' is not CHIP:SHAPE",
        (
            *LINEAR,
            "--config.mesh.branch=8",
        ): "a mesh of 8 devices",
        (*LINEAR, "--dtype=bf16"): "--dtype or --only cannot be read",
        ("--config.generator.checkpoint=checkpoints/pyramid",): "there are pyramid_flow_flux_384p",
        (*LINEAR, "--config.generator.attention=flash"): "unknown attention 'flash'",
    }
    for arguments, sentence in refused.items():
        assert run(*arguments) == cli.EXIT_BAD_INPUT
        error = capsys.readouterr().err
        assert sentence in error and len(error.splitlines()) == 1
    monkeypatch.setattr(plan.chips.util, "find_spec", lambda name: None)
    assert run(*LINEAR) == cli.EXIT_BAD_INPUT
    assert 'needs libtpu: pip install -e ".[plan]"' in capsys.readouterr().err
