r"""Tables of networks of optical flow: RAFT, and AMT's frame interpolation."""

from collections.abc import Mapping

import numpy as np

from converters.core import AS_IS, CONV2D, Rules


def convolution(source: str, target: str) -> Rules:
    """Table of one convolution."""
    return {
        source + r"\.weight": (f"{target}.kernel", CONV2D),
        source + r"\.bias": (f"{target}.bias", AS_IS),
    }


def _norm(source: str, target: str) -> Rules:
    """Table of one batch norm."""
    fields = dict(weight="scale", bias="bias", running_mean="mean", running_var="variance")
    return {source + rf"\.{name}": (f"{target}.{ours}", AS_IS) for name, ours in fields.items()}


def encoder(source: str, target: str, convolutions: int, norms: bool) -> Rules:
    """Table of a feature encoder, whose blocks have so many convolutions."""
    rules = convolution(source + r"conv1", f"{target}.stem")
    rules |= convolution(source + r"conv2", f"{target}.out")
    if norms:
        rules |= _norm(source + r"norm1", f"{target}.norm")
    for index in range(6):
        stage, place = divmod(index, 2)
        block, ours = source + rf"layer{stage + 1}\.{place}\.", f"{target}.blocks.{index}"
        for part in range(1, convolutions + 1):
            rules |= convolution(block + f"conv{part}", f"{ours}.conv{part}")
            if norms:
                rules |= _norm(block + f"norm{part}", f"{ours}.norm{part}")
        if stage and not place:
            rules |= convolution(block + r"downsample\.0", f"{ours}.skip.conv")
            if norms:
                rules |= _norm(block + r"downsample\.1", f"{ours}.skip.norm")
    return rules


_UPDATE = {
    r"encoder\.convc1": "motion.corr1",
    r"encoder\.convc2": "motion.corr2",
    r"encoder\.convf1": "motion.flow1",
    r"encoder\.convf2": "motion.flow2",
    r"encoder\.conv": "motion.out",
    r"flow_head\.conv1": "flow.conv1",
    r"flow_head\.conv2": "flow.conv2",
    r"mask\.0": "weights.conv1",
    r"mask\.2": "weights.conv2",
    **{
        rf"gru\.conv{gate}{axis}": f"{unit}.{ours}"
        for axis, unit in ((1, "across"), (2, "down"))
        for gate, ours in (("z", "update"), ("r", "reset"), ("q", "candidate"))
    },
}

RAFT_RULES: Rules = {
    **encoder(r"fnet\.", "features", 2, norms=False),
    **encoder(r"cnet\.", "context", 2, norms=True),
}
for _source, _target in _UPDATE.items():
    RAFT_RULES |= convolution(r"update_block\." + _source, _target)

RAFT_IGNORED = {
    r"cnet\..*\.norm3\.\w+": "the norm of the layer beside it, stored again",
    r"cnet\..*\.num_batches_tracked": "counts steps of training",
}


def transposed(kernel: np.ndarray) -> np.ndarray:
    """A transposed convolution's kernel, [I, O, kh, kw], for that of a spread input."""
    return np.flip(kernel, (2, 3)).transpose(2, 3, 0, 1)


def _rectified(source: str, target: str) -> Rules:
    """Table of a convolution and its rectifier."""
    return {
        **convolution(source + r"\.0", f"{target}.conv"),
        source + r"\.1\.weight": (f"{target}.act.slope", AS_IS),
    }


def _decoder(number: int) -> Rules:
    """Table of a decoder of AMT; the finest has number 1."""
    source, target = rf"decoder{number}\.convblock\.", f"decoders.{number - 1}"
    rules = _rectified(source + "0", f"{target}.enter")
    for stored, ours in enumerate(("whole1", "part1", "whole2", "part2"), 1):
        rules |= _rectified(source + rf"1\.conv{stored}", f"{target}.block.{ours}")
    return {
        **rules,
        **convolution(source + r"1\.conv5", f"{target}.block.out"),
        source + r"1\.prelu\.weight": (f"{target}.block.act.slope", AS_IS),
        source + r"2\.weight": (f"{target}.grow.kernel", transposed),
        source + r"2\.bias": (f"{target}.grow.bias", AS_IS),
    }


def _update(number: int) -> Rules:
    """Table of an update of AMT; that before the finest decoder has number 2."""
    source, target = rf"update{number}\.", f"updates.{number - 2}"
    layers = {"convc1": "corr", "convf1": "flow1", "convf2": "flow2", "conv": "join"}
    for stored, ours in (("gru", "mix"), ("feat_head", "features"), ("flow_head", "flow")):
        layers |= {rf"{stored}\.0": f"{ours}.conv1", rf"{stored}\.2": f"{ours}.conv2"}
    rules = {}
    for stored, ours in layers.items():
        rules |= convolution(source + stored, f"{target}.{ours}")
    return rules


AMT_RULES: Rules = encoder(r"feat_encoder\.", "features", 3, norms=False)
for _number in (1, 2, 3, 4):
    for _place in (0, 1):
        AMT_RULES |= _rectified(
            rf"encoder\.pyramid{_number}\.{_place}", f"pyramid.{_number - 1}.{_place}"
        )
    AMT_RULES |= _decoder(_number)
for _number in (2, 3, 4):
    AMT_RULES |= _update(_number)
AMT_RULES |= convolution(r"comb_block\.0", "combine.0.conv")
AMT_RULES |= convolution(r"comb_block\.2", "combine.1")
AMT_RULES[r"comb_block\.1\.weight"] = ("combine.0.act.slope", AS_IS)


def without_wrapper(tensors: Mapping) -> dict:
    """Drops the `module.` that training on several devices puts before every name."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
