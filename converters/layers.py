"""Rules of layers that tables share: the weight and the bias of one, under our names.

`index` is what stands behind our names, such as the number of a stacked block.
"""

from converters.core import AS_IS, LINEAR, Rules, Transform, conv_kernel


def layer(pattern: str, target: str, parameter: str, transform: Transform, index: str) -> Rules:
    """Of a layer whose weight is called `parameter`."""
    return {
        pattern + r"\.weight": (f"{target}.{parameter}{index}", transform),
        pattern + r"\.bias": (f"{target}.bias{index}", AS_IS),
    }


def linear(pattern: str, target: str, index: str = "") -> Rules:
    """Kernel and bias of a linear layer."""
    return layer(pattern, target, "kernel", LINEAR, index)


def norm(pattern: str, target: str, index: str = "") -> Rules:
    """Scale and bias of a norm."""
    return layer(pattern, target, "scale", AS_IS, index)


def conv(
    pattern: str, target: str, index: str = "", *, transform: Transform = conv_kernel
) -> Rules:
    """Kernel and bias of a convolution."""
    return layer(pattern, target, "kernel", transform, index)
