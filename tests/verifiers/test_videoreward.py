"""VideoReward against the reference outputs."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from converters import convert, verify
from converters.core import check
from converters.judge_cases import videoreward_outputs
from converters.videoreward import IGNORED, RULES, merge_adapter, prepare
from tests.published import run_program as run
from tests.published import write_judge
from tts_jax.checkpoints import abstract_params
from tts_jax.verifiers.videoreward import (
    MARKS,
    VideoReward,
    VideoRewardConfig,
    VideoRewardVerifier,
)


@pytest.fixture(scope="module")
def judge(open_judge):
    read = VideoRewardConfig.from_reference
    return open_judge("videoreward", VideoReward, read, RULES, IGNORED, prepare)


def test_tower_merger_and_rewards_match(judge):
    names = ("vision.blocks_out", "vision.merger_out", "flat.logits", "mrope.logits")
    judge.check(videoreward_outputs, *names, "normalised", "overall")


def test_the_adapter_is_merged_as_published(judge, golden):
    folder = golden("videoreward")
    parts = [
        load_file(folder / f"{name}.safetensors")
        for name in ("base", "adapter_model", "non_lora_state_dict")
    ]
    merged = merge_adapter(parts[0] | parts[1] | parts[2], judge.fields["lora"]["alpha"])
    wanted = load_file(folder / "weights.safetensors")
    assert set(merged) == set(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_allclose(np.asarray(merged[name]), tensor, atol=1e-6, err_msg=name)
    lonely = {k: v for k, v in parts[1].items() if "lora_A" in k}
    with pytest.raises(ValueError, match="not whole"):
        merge_adapter(parts[0] | lonely)


def test_every_published_tensor_is_taken_once(check_manifest):
    config = VideoRewardConfig.videoreward()
    taken = check_manifest("videoreward_merged", VideoReward, config, RULES, IGNORED, prepare)
    assert taken == 730 + 2 * 64  # queries, keys and values of 32 blocks are stored as one


def test_the_published_adapter_and_its_base_fill_every_parameter(golden):
    shapes = {}
    for name in ("qwen2_vl_2b", "videoreward_checkpoint"):
        shapes |= json.loads((golden("manifests") / f"{name}.json").read_text())
    _, like = abstract_params(VideoReward, VideoRewardConfig.videoreward())
    assert len(check(prepare(shapes), like, RULES, IGNORED)) == 730 + 2 * 64


def test_a_prompt_changes_the_text_alignment_alone(judge, reader):
    template = f" a {MARKS[0]} b {MARKS[1]} c {{text_prompt}} {MARKS[2]}"
    area = judge.config.vision.factor**2
    small = dataclasses.replace(judge.config, least=area, most=6 * area)
    verifier = VideoRewardVerifier(small, reader, template, rate=4.0)
    query = verifier.prepare(judge.params, ["a cat", "dogs run"])
    frames = jax.random.uniform(jax.random.key(0), (2, 8, 20, 30, 3))
    outputs = jax.jit(verifier.outputs)
    queries = (jax.tree.map(lambda leaf, i=i: leaf[i], query) for i in range(2))
    first, second = (np.asarray(outputs(judge.params, frames, q)) for q in queries)
    np.testing.assert_allclose(first[:, :2], second[:, :2], atol=1e-5)
    assert np.abs(first[:, 2] - second[:, 2]).min() > 1e-5
    with pytest.raises(ValueError, match="TA_reward"):
        VideoRewardVerifier(judge.config, reader, "no marks")


@pytest.fixture(scope="module")
def published(golden, tmp_path_factory):
    """The judge's published directory and that of the model it adapts."""
    root, source = tmp_path_factory.mktemp("videoreward"), golden("videoreward")
    base, judge = root / "base", root / "judge"
    write_judge(base, source, {})
    shutil.copy(source / "base.safetensors", base / "model.safetensors")
    fields = json.loads((base / "config.json").read_text())
    fields["vocab_size"] = fields.pop("base_vocab_size")
    lora, scale = fields.pop("lora"), fields.pop("normalisation")
    (base / "config.json").write_text(json.dumps(fields))
    place = judge / "checkpoint-20"
    place.mkdir(parents=True)
    (judge / "checkpoint-9").mkdir()  # an earlier one, which does not count
    (judge / "model_config.json").write_text(
        json.dumps(
            {
                "peft_lora_config": {"lora_alpha": 3},
                "inference_config": {f"{n}_{k}": v[k] for n, v in scale.items() for k in v},
            }
        )
    )
    (place / "adapter_config.json").write_text(json.dumps({"lora_alpha": lora["alpha"]}))
    shutil.copy(source / "adapter_model.safetensors", place)
    whole = load_torch(source / "non_lora_state_dict.safetensors")
    torch.save(whole, place / "non_lora_state_dict.pth")
    return judge, base


def test_one_command_makes_a_judge_of_adapter_and_base(published, golden, tmp_path, capsys):
    source, base = published
    flags = {"model": "videoreward", "src": source, "dst": tmp_path / "ours"}
    assert run(convert, **flags, base=base) == 0
    assert run(verify, golden=golden("videoreward"), checkpoint=tmp_path / "ours") == 0
    assert all(line.endswith("ok") for line in capsys.readouterr().out.splitlines()[-6:])
    assert (tmp_path / "ours" / "tokenizer.json").is_file()
    assert run(convert, **flags | {"dst": tmp_path / "no"}) == 2
    assert run(convert, **flags | {"src": base, "dst": tmp_path / "no"}, base=base) == 2
    errors = capsys.readouterr().err
    assert "with --base" in errors and "holds no adapter" in errors
    assert not (tmp_path / "no").exists()


def test_an_adapter_saved_whole_needs_the_base_for_its_config_alone(published, golden, tmp_path):
    source, base = published
    updates = load_torch(golden("videoreward") / "adapter_model.safetensors")
    linear = {name.rpartition(".lora_")[0] for name in updates}
    tensors = {
        f"base_model.model.{n}": t for n, t in load_torch(base / "model.safetensors").items()
    }
    tensors |= torch.load(source / "checkpoint-20" / "non_lora_state_dict.pth")
    layers = {f"{name}.weight": f"{name}.base_layer.weight" for name in linear}
    tensors = {layers.get(name, name): tensor for name, tensor in tensors.items()}
    renamed = {name.replace(".weight", ".default.weight"): t for name, t in updates.items()}
    torch.save(tensors | renamed, tmp_path / "model.pth")
    flags = {"model": "videoreward", "src": tmp_path, "base": base}
    assert run(convert, **flags, dry_run=True) == 0
    del renamed[next(iter(renamed))]
    torch.save(tensors | renamed, tmp_path / "model.pth")
    assert run(convert, **flags, dry_run=True) == 2
