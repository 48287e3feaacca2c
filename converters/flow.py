r"""Tables of networks of optical flow: RAFT."""

from collections.abc import Mapping

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


def without_wrapper(tensors: Mapping) -> dict:
    """Drops the `module.` that training on several devices puts before every name."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
