"""From published directories of judges to a search that they judge, with a user's commands."""

import json

import numpy as np
import pytest

from converters import convert, verify
from experiments import cli, generate
from tests import published
from tests.published import run_program as run

PROMPT = "a red circle moving right and a blue square moving up"
TEXTS = {
    "visionreward": {
        "items": [
            {"question": "is it [[prompt]]?", "weight": 2},
            {"question": "calm?"},
            {"question": "sharp?", "weight": 0.5},
        ],
        "stages": [[1, "is it still?"]],
    },
    "videollama3": {"question": "is it [[prompt]]? yes or no"},
}
FILES = ["best.gif", "best.mp4", "contact_sheet.png", "ledger.json", "report.html", "tree.json"]


@pytest.fixture(scope="module")
def judges(golden, tmp_path_factory):
    """A folder with the converted judges, by name."""
    root = tmp_path_factory.mktemp("judges")
    for name, texts in TEXTS.items():
        published.write_judge(root / "published" / name, golden(published.JUDGES[name]), texts)
        assert run(convert, model=name, src=root / "published" / name, dst=root / name) == 0
    published.write_clip(root / "published" / "clip")
    flags = {"src": root / "published" / "clip", "dst": root / "clip_score"}
    assert run(convert, model="clip_vit_large_patch14", **flags) == 0
    published.write_language_model(root / "published" / "language_model", "qwen2")
    flags = {"src": root / "published" / "language_model", "dst": root / "language_model"}
    assert run(convert, model="language_model", **flags) == 0
    return root


@pytest.mark.parametrize("name", TEXTS)
def test_a_converted_judge_computes_what_the_original_does(judges, golden, capsys, name):
    folder = golden(published.JUDGES[name])
    assert run(verify, golden=folder, checkpoint=judges / name) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 5 and all(line.endswith("ok") for line in lines)


def test_converted_judges_score_every_video_of_a_search(judges, checkpoint, tmp_path):
    entries = [
        {"name": name, "checkpoint": str(judges / name), "weight": 1.0, "options": options}
        for name, options in {
            "visionreward": {"layout": "chat", "rate": 8.0},
            "videollama3": {"rate": 8.0},
            "clip_score": {},
        }.items()
    ]
    argv = [
        "generate",
        f"--config.generator.checkpoint={checkpoint}",
        f"--config.verifiers={tuple(entries)!r}",
        "--config.panel.aggregation=rank",
        "--config.search.branching=(2,1,1,1,1)",
        "--config.search.image_keep=0",
        "--config.search.judge_depths=(2,)",
        "--config.search.keep=(2,)",
        "--config.stage_prompts.source=decoder",
        f"--config.stage_prompts.path={judges / 'language_model'}",
        f"--config.stage_prompts.cache={tmp_path / 'cache'}",
        "--config.mesh.branch=1",
        f"--workdir={tmp_path / 'run'}",
        f"--prompt={PROMPT}",
    ]
    program = {"doc": generate.__doc__, "define": generate.define}
    with pytest.warns(UserWarning, match="the whole prompt stands at every stage"):
        assert cli.run(generate.main, argv=argv, **program) == 0
    folder = tmp_path / "run" / "prompts" / "0"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    tree, ledger = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("tree", "ledger")
    )
    names = [entry["name"] for entry in entries]
    assert tree["panel"]["verifiers"] == names
    judged = [node for node in tree["nodes"] if node["scores"]]
    assert len(judged) == 4  # two at the stage, two at the end
    for node in judged:
        assert list(node["scores"]) == names
        assert np.isfinite(list(node["scores"].values())).all()
    for name in names:
        assert len({node["scores"][name] for node in judged}) == 4
        assert ledger["search"][name]["calls"] == 4
    # a random language model splits nothing
    assert tree["stage_prompts"] == [PROMPT] * 3
    assert ledger["search"]["stage_prompts"]["calls"] == 3
    assert len(list((tmp_path / "cache").iterdir())) == 1
    # two questions at the stage and three at the end, each with a program of its own
    assert ledger["search"]["visionreward"]["compilations"] == 2
