"""Judges from published directories: converted, loaded by name, asked, and in a panel."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import convert
from tests.published import JUDGES, write_judge
from tts_jax.checkpoints import CheckpointError
from tts_jax.verifiers import load_verifier
from tts_jax.verifiers.panel import Panel

TEXTS = {
    "image_selector": {"options": {"mode": "parm", "limit": 20}},
    "videollama3": {"question": "is it [[prompt]]? yes or no", "options": {"rate": 8.0}},
    "videoreward": {
        "template": "a <|VQ_reward|> b <|MQ_reward|> {text_prompt} <|TA_reward|>",
        "options": {"output": "VQ"},
    },
    "videoscore": {"template": "rate {text_prompt}\n"},
    "visionreward": {
        "items": [
            {"question": "is it [[prompt]]?", "weight": 2},
            {"question": "calm?", "weight": 1},
            {"question": "sharp?"},
        ],
        "stages": [[1], [2, 0]],
        "options": {"layout": "chat", "rate": 1.0},
    },
}


@pytest.fixture(scope="module")
def published(golden, tmp_path_factory):
    """`published(name)`: a folder as it is published, with tiny weights."""

    def write(name):
        folder = tmp_path_factory.mktemp(name) / "published"
        write_judge(folder, golden(JUDGES[name]), TEXTS[name])
        return folder

    return write


@pytest.fixture(scope="module")
def converted(published, tmp_path_factory):
    """`converted(name)`: the folder that the program made of it."""
    done = {}

    def run(name):
        if name not in done:
            done[name] = tmp_path_factory.mktemp("ours") / name
            flags = ["", f"--model={name}", f"--src={published(name)}", f"--dst={done[name]}"]
            assert convert.program(flags) == 0
        return done[name]

    return run


@pytest.mark.parametrize("name", JUDGES)
def test_a_published_judge_is_converted_and_loaded(converted, golden, name):
    verifier, params = load_verifier(name, converted(name))
    fields = json.loads((golden(JUDGES[name]) / "config.json").read_text())
    found = type(verifier.config).from_reference(fields)
    if name == "visionreward":
        assert verifier.config.layout == "chat"
    else:
        assert verifier.config == found
    query = verifier.prepare(params, ["a cat", "two dogs"])
    assert query.tokens.shape[0] == 2
    assert jax.tree.structure(params) == jax.tree.structure(verifier.abstract_params)


def test_a_panel_of_judges_scores_branches(converted):
    names = ("image_selector", "visionreward")
    loaded = [load_verifier(name, converted(name)) for name in names]
    flicker, _ = load_verifier("flicker")
    panel = Panel([verifier for verifier, _ in loaded] + [flicker], [1.0, 1.0, 1.0], "rank")
    assert [verifier.name for verifier in panel.verifiers] == [*names, "flicker"]
    frames = jax.random.uniform(jax.random.key(0), (2, 2, 24, 36, 3))
    for verifier, params in loaded:
        query = verifier.prepare(params, ["a cat"])
        query = jax.tree.map(lambda leaf: leaf[0], query)
        scores = jax.jit(verifier.score)(params, frames, query)
        assert scores.shape == (2,)
        assert scores.dtype == jnp.float32
        assert np.isfinite(scores).all()


def test_a_stage_asks_its_own_questions(converted, tmp_path):
    folder = converted("visionreward")
    texts = json.loads((folder / "judge.json").read_text())
    texts["options"] = {"stage": 1, "graded": False}
    try:
        (folder / "judge.json").write_text(json.dumps(texts))
        verifier, _ = load_verifier("visionreward", folder)
        assert verifier.checklist.questions == ("sharp?", "is it [[prompt]]?")
        assert verifier.checklist.weights == (1.0, 1.0)
        shutil.copy(folder / "judge.json", tmp_path / "mine.json")
        del texts["options"]["stage"]
        (folder / "judge.json").write_text(json.dumps(texts))
        verifier, _ = load_verifier("visionreward", folder)
        wanted = [("calm?",), ("sharp?", "is it [[prompt]]?"), ("sharp?", "is it [[prompt]]?")]
        assert [verifier.at_stage(i).checklist.questions for i in range(3)] == wanted
        options = {"stage": 0, "rate": 4.0}
        verifier, _ = load_verifier("visionreward", folder, tmp_path / "mine.json", options)
        assert verifier.checklist.questions == ("calm?",)
        assert verifier.rate == 4.0 and not verifier.graded
        with pytest.raises(CheckpointError, match=r"no_such\.json does not exist"):
            load_verifier("visionreward", folder, tmp_path / "no_such.json")
        with pytest.raises(ValueError, match="clip_score takes no texts"):
            load_verifier("clip_score", folder, options=options)
        del texts["stages"]
        (folder / "judge.json").write_text(json.dumps(texts))
        (folder / "question0.txt").write_text("is it new?\ncalm?\n")
        verifier, _ = load_verifier("visionreward", folder)
        assert verifier.at_stage(1).checklist.questions == ("is it new?", "calm?")
        (folder / "question0.txt").unlink()
        texts |= {"stages": [[0, 7]], "options": {}}
        (folder / "judge.json").write_text(json.dumps(texts))
        with pytest.raises(CheckpointError, match=r"stages of .*0\.\.2; 7 is none"):
            load_verifier("visionreward", folder)
        texts |= {"stages": [[1]], "options": {"stage": 2}}
        (folder / "judge.json").write_text(json.dumps(texts))
        with pytest.raises(CheckpointError, match="no stage 2"):
            load_verifier("visionreward", folder)
    finally:
        (folder / "judge.json").write_text(json.dumps(TEXTS["visionreward"]))


def test_what_cannot_be_loaded_is_one_error(converted, tmp_path):
    with pytest.raises(CheckpointError, match="no embedded checkpoint"):
        load_verifier("videoscore")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_verifier("videoscore", tmp_path)
    folder = converted("videoscore")
    with pytest.raises(CheckpointError, match="no verifier 'videoreward'"):
        load_verifier("videoreward", folder)
    path = folder / "judge.json"
    whole = path.read_text()
    try:
        for wrong, reason in (
            ({}, "no template"),
            ({"template": "a", "colour": 1}, "colour"),
            ({"template": "a", "options": {"size": 1}}, "size"),
        ):
            path.write_text(json.dumps(wrong))
            with pytest.raises(CheckpointError, match=reason):
                load_verifier("videoscore", folder)
    finally:
        path.write_text(whole)
