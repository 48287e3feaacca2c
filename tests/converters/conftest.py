"""Published directories with tiny random weights, and how the tests run the programs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file


class T5Folder(NamedTuple):
    """A published T5 encoder: its folder and what lies in it."""

    folder: Path
    tensors: Mapping[str, np.ndarray]
    shards: Mapping[str, list[str]]


def t5_shapes(width: int, layers: int, mlp: int, heads: int, vocabulary: int) -> dict:
    shapes = {
        "shared.weight": (vocabulary, width),
        "encoder.final_layer_norm.weight": (width,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, heads),
    }
    for i in range(layers):
        attention, mlps = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        inner = heads * (width // heads + 1)  # not square: a transposed one is seen
        shapes |= {f"{attention}.SelfAttention.{k}.weight": (inner, width) for k in "qkv"}
        shapes |= {
            f"{attention}.SelfAttention.o.weight": (width, inner),
            f"{attention}.layer_norm.weight": (width,),
            f"{mlps}.DenseReluDense.wi_0.weight": (mlp, width),
            f"{mlps}.DenseReluDense.wi_1.weight": (mlp, width),
            f"{mlps}.DenseReluDense.wo.weight": (width, mlp),
            f"{mlps}.layer_norm.weight": (width,),
        }
    return shapes


def write_t5(folder: Path, *, width=8, layers=2, mlp=12, heads=2, vocabulary=20) -> T5Folder:
    """Writes a T5 encoder in two shards, as transformers does."""
    folder.mkdir(parents=True)
    fields = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": width // heads + 1,
        "d_ff": mlp,
        "num_heads": heads,
        "num_layers": layers,
        "transformers_version": "5.0.0",
    }
    (folder / "config.json").write_text(json.dumps(fields))
    random = np.random.default_rng(0)
    shapes = t5_shapes(width, layers, mlp, heads, vocabulary)
    tensors = {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    names = list(tensors)
    half = len(names) // 2
    shards = {
        "model-00001-of-00002.safetensors": names[:half],
        "model-00002-of-00002.safetensors": names[half:],
    }
    for shard, part in shards.items():
        save_file({n: tensors[n] for n in part}, folder / shard, metadata={"format": "pt"})
    index = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    )
    return T5Folder(folder, tensors, shards)


@pytest.fixture
def t5_folder(tmp_path):
    return write_t5(tmp_path / "t5")


@pytest.fixture(scope="session")
def make_t5():
    """`make_t5(folder, **sizes)` writes another one."""
    return write_t5


@pytest.fixture(scope="session")
def run():
    """`run(program, name=value, ...)`: the program's exit code."""

    def call(program, **flags):
        return program.program(["program", *(f"--{name}={v}" for name, v in flags.items())])

    return call
