"""From a published directory to a searched video, with the commands that a user gives."""

import json
from dataclasses import dataclass
from pathlib import Path

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cogvideox_2b, pyramid_flow_flux_384p
from converters import convert, verify
from experiments import cli, generate
from tests import published
from tests.published import run_program as run_converter
from tts_jax.generators import load_generator
from tts_jax.parallel import branch_mesh, replicate
from tts_jax.search.presets import PRESETS, preset_fields

CONFIGS = Path(cogvideox_2b.__file__).parent
PROMPT = "a red circle moving right and a blue square moving up"
FILES = ["best.gif", "best.mp4", "contact_sheet.png", "ledger.json", "report.html", "tree.json"]

# The published settings at the tiny sizes of the checkpoints, and the denoiser calls of a video.
PYRAMID = (
    "--config.generator.frames=3",
    "--config.generator.height=8",
    "--config.generator.width=8",
    "--config.generator.steps_first=(1,1,1)",
    "--config.generator.steps=(1,1,1)",
)
COGVIDEO = (
    "--config.generator.frames=9",
    "--config.generator.height=16",
    "--config.generator.width=24",
    "--config.generator.steps=2",
    "--config.generator.steps_per_segment=1",
)
LINEAR = ("--config.search.preset=random_linear", "--config.search.branches=2")
TREE = (
    "--config.search.preset=tree_of_frames",
    "--config.search.branching=(3,2,1)",
    "--config.search.image_keep=2",
    "--config.search.judge_depths=(1,)",
    "--config.search.keep=(1,)",
    "--config.search.rule=top_k",
)
BEAM = (
    "--config.search.preset=beam",
    "--config.search.beams=2",
    "--config.search.children=2",
    "--config.generator.eta=1.0",
)


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint after its conversion.

    Attributes:
      name: of the model, and of its config file.
      folder: ours.
      recordings: golden folders of its components.
    """

    name: str
    folder: Path
    recordings: Path

    def generate(self, verifiers: Path, *arguments) -> int:
        """Runs experiments.generate with the model's config file."""
        argv = [
            "generate",
            f"--config={CONFIGS / self.name}.py",
            f"--config.generator.checkpoint={self.folder}",
            f"--config.verifiers[0].checkpoint={verifiers / 'clip'}",
            f"--config.verifiers[1].checkpoint={verifiers / 'viclip'}",
            "--config.mesh.branch=1",
            f"--prompt={PROMPT}",
            *arguments,
        ]
        return cli.run(generate.main, doc=generate.__doc__, define=generate.define, argv=argv)


@pytest.fixture(scope="module")
def verifiers(checkpoint, tmp_path_factory):
    """Verifiers: `clip` converted from a published directory, `viclip` the tiny untrained one."""
    root = tmp_path_factory.mktemp("verifiers")
    published.write_clip(root / "published")
    flags = {"model": "clip_vit_large_patch14", "src": root / "published", "dst": root / "clip"}
    assert run_converter(convert, **flags) == 0
    (root / "viclip").symlink_to(checkpoint)
    return root


@pytest.fixture(
    scope="module",
    params=[
        "pyramid_flow_flux_384p",
        "pyramid_flow_mmdit_384p",
        "cogvideox_2b",
        "cogvideox_5b",
    ],
)
def converted(request, golden, tmp_path_factory):
    """A tiny checkpoint in the published layout, converted."""
    name = request.param
    root = tmp_path_factory.mktemp(name)
    if name.startswith("cogvideox"):
        published.write_cogvideox(root / "published", root / "golden", name.rpartition("_")[2])
    else:
        variant = name.split("_")[2]
        published.write_pyramid_flow(root / "published", root / "golden", golden, variant)
    flags = {"model": name, "src": root / "published", "dst": root / "ours"}
    assert run_converter(convert, **flags, dry_run=True) == 0
    assert run_converter(convert, **flags) == 0
    return Checkpoint(name, root / "ours", root / "golden")


def test_the_conversion_computes_what_the_originals_do(converted, capsys):
    assert run_converter(verify, golden=converted.recordings, checkpoint=converted.folder) == 0
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0] for line in lines}
    assert found == {path.name for path in converted.recordings.iterdir()}
    assert all(line.endswith("ok") for line in lines)


@pytest.mark.parametrize("kind", ["linear", "forked"])
def test_a_search_makes_a_video(converted, verifiers, tmp_path, kind):
    pyramid = converted.name.startswith("pyramid_flow")
    sizes, forked = (PYRAMID, TREE) if pyramid else (COGVIDEO, BEAM)
    search = LINEAR if kind == "linear" else forked
    workdir = tmp_path / "run"
    assert converted.generate(verifiers, f"--workdir={workdir}", *sizes, *search) == 0
    folder = workdir / "prompts" / "0"
    assert sorted(path.name for path in folder.iterdir()) == FILES

    # a guided call counts twice: 3 steps a unit, or 2 of the whole video
    grown = {
        ("linear", True): 2 * 3 * 6,
        ("forked", True): (3 + 2 * 2 + 1) * 6,
        ("linear", False): 2 * 2 * 2,
        ("forked", False): 4 * 2 * 2,
    }[kind, pyramid]
    tree, ledger = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("tree", "ledger")
    )
    assert ledger["search"]["generator"]["nfe"] == tree["cost"]["generator"]["nfe"] == grown
    scores = [score for node in tree["nodes"] for score in node["scores"].values()]
    assert scores and np.isfinite(scores).all()
    assert set(tree["winner"]["scores"]) == {"clip", "viclip", "flicker"}
    assert tree["winner"]["panel"] >= tree["single"]["panel"]

    with av.open(folder / "best.mp4") as video:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert len(frames) == (9 if not pyramid else 1 + 2 * 8)
    assert frames.std() > 1


def test_parameters_are_held_once_and_as_stored(converted, tmp_path):
    source, target = converted.folder.parent / "published", tmp_path / "half"
    flags = {"model": converted.name, "src": source, "dst": target, "dtype": "bfloat16"}
    assert run_converter(convert, **flags) == 0
    family = "pyramid_flow" if converted.name.startswith("pyramid_flow") else "cogvideox"
    _, params = load_generator(family, target)
    copies = replicate(params, branch_mesh())
    for leaf, copy in zip(jax.tree.leaves(params), jax.tree.leaves(copies), strict=True):
        here, *others = copy.addressable_shards
        assert copy.dtype == leaf.dtype == jnp.bfloat16
        assert here.data.unsafe_buffer_pointer() == leaf.unsafe_buffer_pointer()
        assert len(others) == jax.device_count() - 1


@pytest.mark.parametrize("config", [cogvideox_2b, pyramid_flow_flux_384p])
def test_a_published_config_takes_any_search(config):
    fields = set(config.get_config().search)
    assert all(set(preset_fields(name)) <= fields for name in PRESETS)
