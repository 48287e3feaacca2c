"""Damaged checkpoints are refused in one message, whatever the damage."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import convert
from converters.registry import COMPONENTS
from tts_jax.checkpoints import flatten, load_orbax

NAME = "t5_v1_1_xxl_encoder"
INDEX = "model.safetensors.index.json"


class Checkpoint:
    """A copy of a sound checkpoint, to be damaged."""

    def __init__(self, folder, shards, random):
        self.folder, self.shards, self.random = folder, shards, random

    def pick(self, options):
        return options[self.random.integers(len(options))]

    def shard(self):
        return self.folder / self.pick(sorted(self.shards))

    def change_tensors(self, change):
        path = self.shard()
        tensors = load_file(path)
        change(tensors, self.pick(sorted(tensors)))
        path.unlink()
        save_file(tensors, path)

    def change_json(self, name, change):
        path = self.folder / name
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps(fields))

    def as_torch(self):
        import torch

        tensors = {}
        for shard in self.shards:
            tensors |= load_file(self.folder / shard)
            (self.folder / shard).unlink()
        (self.folder / INDEX).unlink()
        path = self.folder / "pytorch_model.bin"
        torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, path)
        return path


def drop(it):
    it.change_tensors(lambda tensors, name: tensors.pop(name))


def rename(it):
    def change(tensors, name):
        tensors[name[: it.random.integers(len(name))] + "x"] = tensors.pop(name)

    it.change_tensors(change)


def transpose(it):
    def change(tensors, name):
        name = it.pick([n for n, t in tensors.items() if t.ndim == 2])
        tensors[name] = np.ascontiguousarray(tensors[name].T)

    it.change_tensors(change)


def swap_dtype(it):
    dtype = it.pick([np.int32, np.int64, np.uint8, np.int8, bool, np.uint16])

    def change(tensors, name):
        tensors[name] = tensors[name].astype(dtype)

    it.change_tensors(change)


def spoil_value(it):
    def change(tensors, name):
        tensors[name].flat[it.random.integers(tensors[name].size)] = it.pick([np.nan, np.inf])

    it.change_tensors(change)


def duplicate(it):
    def change(tensors, name):
        others = [n for names in it.shards.values() for n in names if n not in tensors]
        tensors[it.pick(others)] = tensors[name]

    it.change_tensors(change)


def truncate(it):
    path = it.pick([*sorted(it.folder.glob("*.safetensors")), it.folder / INDEX])
    data = path.read_bytes()
    path.write_bytes(data[: it.random.integers(len(data))])


def lengthen(it):
    path = it.shard()
    path.write_bytes(path.read_bytes() + b"\0" * int(it.random.integers(1, 100)))


def flip_header_byte(it):
    path = it.shard()
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    data[it.random.integers(header)] ^= 1 << it.random.integers(8)
    path.write_bytes(bytes(data))


def lose_shard(it):
    it.shard().unlink()


def make_shard_a_folder(it):
    path = it.shard()
    path.unlink()
    path.mkdir()


def change_index(it):
    def change(fields):
        index = fields["weight_map"]
        name = it.pick(sorted(index))
        damage = it.pick(["drop", "add", "move", "escape", "number", "list", "none"])
        if damage == "drop":
            del index[name]
        elif damage == "add":
            index["absent"] = index[name]
        elif damage == "list":
            fields["weight_map"] = [name]
        elif damage == "none":
            del fields["weight_map"]
        else:
            places = {"move": "elsewhere.safetensors", "escape": "../x.safetensors", "number": 3}
            index[name] = places[damage]

    it.change_json(INDEX, change)


def change_config(it):
    def change(fields):
        name = it.pick(["vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers"])
        damage = it.pick(["drop", "grow", "text", "null", "negative", "zero", "list", "fraction"])
        if damage == "drop":
            del fields[name]
        else:
            values = {"grow": fields[name] + 1, "text": "many", "null": None, "zero": 0}
            values |= {"negative": -3, "list": [fields[name]], "fraction": fields[name] + 0.5}
            fields[name] = values[damage]

    it.change_json("config.json", change)


def add_unknown_field(it):
    it.change_json("config.json", lambda fields: fields.update(num_experts=2))


def contradict_config(it):
    field, value = it.pick(
        [("feed_forward_proj", "relu"), ("is_gated_act", False), ("model_type", "bert")]
    )
    it.change_json("config.json", lambda fields: fields.update({field: value}))


def damage_config_file(it):
    path = it.folder / "config.json"
    path.write_bytes(it.pick([b"", b"[]", b"3", b"\xff\xfe", path.read_bytes()[:-4], b"[" * 9999]))


def truncate_torch(it):
    path = it.as_torch()
    data = path.read_bytes()
    path.write_bytes(data[: it.random.integers(len(data))])


def flip_pickle_byte(it):
    path = it.as_torch()
    data = bytearray(path.read_bytes())
    start = data.index(b"data.pkl")
    data[start + it.random.integers(200)] ^= 1 << it.random.integers(8)
    path.write_bytes(bytes(data))


DAMAGES = {
    drop: 3,
    rename: 4,
    transpose: 4,
    swap_dtype: 6,
    spoil_value: 3,
    duplicate: 3,
    truncate: 12,
    lengthen: 3,
    flip_header_byte: 60,
    lose_shard: 2,
    make_shard_a_folder: 1,
    change_index: 14,
    change_config: 24,
    add_unknown_field: 1,
    contradict_config: 4,
    damage_config_file: 8,
    truncate_torch: 4,
    flip_pickle_byte: 12,
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory, make_t5, run):
    """The sound checkpoint and its parameters."""
    root = tmp_path_factory.mktemp("sound")
    published = make_t5(root / "published")
    assert run(convert, model=NAME, src=published.folder, dst=root / "ours") == 0
    return published, parameters(root / "ours", published.folder)


def parameters(converted, published):
    component = COMPONENTS[NAME]
    config = component.read(json.loads((published / "config.json").read_text()))
    like = component.abstract(config)[1]
    return flatten(load_orbax(converted / "params", {NAME: like})[NAME])


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_refused(damage, sound, tmp_path, run, capsys):
    published, wanted = sound
    refused = 0
    for seed in range(DAMAGES[damage]):
        folder, target = tmp_path / "damaged", tmp_path / "target"
        shutil.copytree(published.folder, folder)
        damage(Checkpoint(folder, published.shards, np.random.default_rng(seed)))
        capsys.readouterr()
        code = run(convert, model=NAME, src=folder, dst=target)
        message = capsys.readouterr().err
        if code == 0:  # a flipped bit of a file's comments changes nothing
            assert damage in (flip_header_byte, flip_pickle_byte), f"seed {seed} was taken"
            found = parameters(target, folder)
            for name, value in wanted.items():
                np.testing.assert_array_equal(found[name], value)
            shutil.rmtree(target)
        else:
            refused += 1
            assert code == 2 and message.startswith("error: "), f"seed {seed}"
            assert "Traceback" not in message and len(message) < 20_000
            assert not target.exists() and not list(tmp_path.glob("target*"))
        shutil.rmtree(folder)
    assert refused > DAMAGES[damage] // 2


def test_faults_of_all_kinds_come_in_one_message(t5_folder, tmp_path, run, capsys):
    it = Checkpoint(t5_folder.folder, t5_folder.shards, np.random.default_rng(0))
    first, second = (it.folder / shard for shard in sorted(it.shards))
    tensors = load_file(first)
    tensors["stranger"] = tensors.pop("encoder.final_layer_norm.weight")
    tensors["shared.weight"] = tensors["shared.weight"].T.copy()
    bias = "encoder.block.0.layer.0.layer_norm.weight"
    tensors[bias] = tensors[bias].astype(np.int64)
    first.unlink()
    save_file(tensors, first)
    second.write_bytes(second.read_bytes()[:-5])
    it.change_json(INDEX, lambda fields: fields["weight_map"].update(lost="absent.safetensors"))
    it.change_json("config.json", lambda fields: fields.update(is_gated_act=False, novel=1))
    assert run(convert, model=NAME, src=it.folder, dst=tmp_path / "target") == 2
    lines = capsys.readouterr().err.splitlines()
    for parts in (
        ("is_gated_act is False", "True only"),
        ("'novel' is unknown",),
        (second.name, "cannot be read"),
        ("absent.safetensors", "does not exist"),
        ("encoder.final_layer_norm.weight", first.name, "does not hold it"),
        ("stranger", "does not name it"),
        ("stranger: no rule takes it",),
        ("shared.weight", "becomes [8, 20]", "wants [20, 8]"),
        (bias, "int64", "floating-point"),
        ("lost: no rule takes it",),
    ):
        assert any(all(part in line for part in parts) for line in lines), (parts, lines)
    assert not any("no tensor fills" in line for line in lines[:-1] if "norm.scale" not in line)
