"""The conversion engine is strict both ways and reports everything at once."""

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from converters.core import AS_IS, CONV2D, CONV3D, LINEAR, check, convert
from converters.sources import ConversionError, read_tensors


def leaf(*shape):
    return np.zeros(shape, np.float32)


RULES = {
    r"blocks\.(\d+)\.proj\.weight": (r"blocks.proj.kernel[\1]", LINEAR),
    r"blocks\.(\d+)\.proj\.bias": (r"blocks.proj.bias[\1]", AS_IS),
    r"heads\.(\d+)\.weight": (r"heads.\1.scale", AS_IS),
    r"(?:conv|old_conv)\.weight": ("conv.kernel", CONV3D),
}
IGNORED = {r".*\.inv_freq": "recomputed"}


@pytest.fixture
def like():
    return {
        "blocks": {"proj": {"kernel": leaf(3, 4, 5), "bias": leaf(3, 5)}},
        "heads": {0: {"scale": leaf(2)}, 1: {"scale": leaf(2)}},
        "conv": {"kernel": leaf(3, 1, 2, 6, 7)},
    }


@pytest.fixture
def tensors():
    random = np.random.default_rng(0)
    shapes = {"heads.0.weight": (2,), "heads.1.weight": (2,), "conv.weight": (7, 6, 3, 1, 2)}
    for i in (2, 0, 1):  # files are in no order
        shapes |= {f"blocks.{i}.proj.weight": (5, 4), f"blocks.{i}.proj.bias": (5,)}
    shapes["rope.inv_freq"] = (9,)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def faults(tensors, like, rules=RULES, ignored=IGNORED):
    with pytest.raises(ConversionError) as error:
        convert(tensors, like, rules, ignored)
    return str(error.value)


def test_every_tensor_lands_in_its_layer_and_layout(tensors, like):
    params = convert(tensors, like, RULES, IGNORED)
    for i in range(3):
        kernel, bias = (params["blocks"]["proj"][name][i] for name in ("kernel", "bias"))
        np.testing.assert_array_equal(kernel, tensors[f"blocks.{i}.proj.weight"].T)
        np.testing.assert_array_equal(bias, tensors[f"blocks.{i}.proj.bias"])
    np.testing.assert_array_equal(params["heads"][1]["scale"], tensors["heads.1.weight"])
    x = np.random.default_rng(1).normal(size=(3, 1, 2, 6))
    np.testing.assert_allclose(
        np.einsum("thwi,thwio->o", x, params["conv"]["kernel"]),
        np.einsum("thwi,oithw->o", x, tensors["conv.weight"]),
        rtol=1e-6,
    )


def test_a_second_name_for_a_tensor_is_taken_too(tensors, like):
    tensors["old_conv.weight"] = tensors.pop("conv.weight")
    params = convert(tensors, like, RULES, IGNORED)
    assert params["conv"]["kernel"].shape == (3, 1, 2, 6, 7)


def test_the_result_has_the_models_dtype_or_the_one_asked_for(tensors, like):
    tensors["heads.0.weight"] = tensors["heads.0.weight"].astype(ml_dtypes.bfloat16)
    assert convert(tensors, like, RULES, IGNORED)["heads"][0]["scale"].dtype == np.float32
    half = convert(tensors, like, RULES, IGNORED, dtype=np.float16)
    assert half["blocks"]["proj"]["kernel"].dtype == np.float16


def test_all_problems_come_in_one_error(tensors, like):
    del tensors["blocks.1.proj.bias"], tensors["heads.1.weight"]
    tensors["blocks.3.proj.weight"] = leaf(5, 4)
    tensors["blocks.0.proj.weight"] = leaf(4, 5)
    tensors["old_conv.weight"] = tensors["conv.weight"]
    tensors["heads.7.weight"] = leaf(2)
    tensors["stranger"] = leaf(1)
    lines = faults(tensors, like).splitlines()
    assert lines[0].startswith("7 problem(s)")
    for parts in (
        ("stranger", "no rule"),
        ("heads.7.weight", "not a parameter"),
        ("blocks.3.proj.weight", "beyond"),
        ("blocks.0.proj.weight", "[5, 4]", "[4, 5]"),
        ("conv.kernel", "conv.weight and by old_conv.weight"),
        ("blocks.proj.bias", "layer(s) [1]"),
        ("heads.1.scale", "no tensor fills it"),
    ):
        assert any(all(part in line for part in parts) for line in lines), parts


def test_a_tensor_matched_twice_is_a_problem(tensors, like):
    assert "matched more than once" in faults(
        tensors, like, RULES | {r"conv\..*": ("conv.kernel", CONV3D)}
    )
    assert "matched more than once" in faults(tensors, like, ignored=IGNORED | {"heads.*": "?"})


def test_patterns_match_whole_names(tensors, like):
    tensors["conv.weight_ema"] = tensors["conv.weight"]
    tensors["ema.conv.weight"] = tensors["conv.weight"]
    message = faults(tensors, like)
    assert "conv.weight_ema: no rule" in message
    assert "ema.conv.weight: no rule" in message


def test_a_transform_that_does_not_suit_the_shape_is_a_problem(tensors, like):
    rules = RULES | {r"(?:conv|old_conv)\.weight": ("conv.kernel", CONV2D)}
    assert "does not suit its transform" in faults(tensors, like, rules)


def test_a_parameter_filled_whole_and_by_layers_is_a_problem(tensors, like):
    tensors["all"] = leaf(3, 5)
    message = faults(tensors, like, RULES | {"all": ("blocks.proj.bias", AS_IS)})
    assert "both whole and by layers" in message


def test_two_stacking_axes(like):
    rules = {r"w\.(\d)\.(\d)": (r"w[\1,\2]", LINEAR)}
    tensors = {f"w.{i}.{j}": np.full((2, 3), 10.0 * i + j) for i in range(2) for j in range(3)}
    params = convert(tensors, {"w": leaf(2, 3, 3, 2)}, rules)
    assert params["w"][1, 2, 0, 0] == 12
    del tensors["w.1.0"]
    assert "layer(s) [1, 0]" in faults(tensors, {"w": leaf(2, 3, 3, 2)}, rules)


def test_a_dry_run_needs_names_and_shapes_only(tensors, like):
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    assert len(check(shapes, like, RULES, IGNORED)) == len(tensors) - 1
    shapes["heads.0.weight"] = [10**9, 10**6]
    with pytest.raises(ConversionError, match=r"heads\.0\.weight: \[1000000000, 1000000\]"):
        check(shapes, like, RULES, IGNORED)


def test_nothing_is_read_before_everything_fits(tensors, like):
    class Unreadable:
        shape = (1,)

        def __array__(self, dtype=None, copy=None):
            raise AssertionError("read")

    assert "stranger" in faults(tensors | {"stranger": Unreadable()}, like)


def test_one_safetensors_file_and_a_folder_of_shards_read_alike(tensors, tmp_path):
    tensors["half"] = np.arange(4).astype(ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "model.safetensors")
    shards = tmp_path / "shards"
    shards.mkdir()
    names = sorted(tensors)
    index = {}
    for i, part in enumerate((names[:3], names[3:])):
        save_file({name: tensors[name] for name in part}, shards / f"m-{i}.safetensors")
        index |= dict.fromkeys(part, f"m-{i}.safetensors")
    (shards / "m.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    for path in (tmp_path / "model.safetensors", tmp_path, shards):
        found = read_tensors(path)
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert found[name].shape == tensor.shape
            np.testing.assert_array_equal(np.asarray(found[name]), tensor)
    index["absent"] = "m-0.safetensors"
    (shards / "m.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ConversionError, match=r"absent: .* says m-0.safetensors, which does not"):
        read_tensors(shards)


def test_a_torch_file_is_read_without_running_its_code(tensors, tmp_path):
    import torch

    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    state["half"] = torch.arange(6).reshape(2, 3).to(torch.bfloat16).T
    torch.save(state, tmp_path / "diffusion_pytorch_model.bin")
    found = read_tensors(tmp_path)
    assert found["half"].shape == (3, 2)
    np.testing.assert_array_equal(np.asarray(found["half"]).astype(int).T.ravel(), np.arange(6))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(np.asarray(found[name]), tensor)
    torch.save({"run": print}, tmp_path / "evil.pt")
    with pytest.raises(ConversionError, match="cannot be read"):
        read_tensors(tmp_path / "evil.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(ConversionError, match="not a plain dictionary"):
        read_tensors(tmp_path / "other.pt")


def test_without_torch_the_error_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "model.bin").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConversionError, match=r"tts_jax\[converters\]"):
        read_tensors(tmp_path)


def test_what_cannot_be_read_is_said_plainly(tensors, tmp_path):
    with pytest.raises(ConversionError, match="does not exist"):
        read_tensors(tmp_path / "nowhere")
    with pytest.raises(ConversionError, match="holds no safetensors"):
        read_tensors(tmp_path)
    save_file(tensors, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:100])
    with pytest.raises(ConversionError, match=r"several checkpoints \(a.safetensors, b"):
        read_tensors(tmp_path)
    with pytest.raises(ConversionError, match="cannot be read"):
        read_tensors(tmp_path / "b.safetensors")
    (tmp_path / "c.ckpt").write_bytes(b"")
    with pytest.raises(ConversionError, match="neither"):
        read_tensors(tmp_path / "c.ckpt")
