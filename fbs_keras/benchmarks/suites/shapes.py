"""The convolutions of the networks that people run, each shape once."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Shape:
    """A square convolution on a square image, as in one or more networks.

    Attributes:
        kernel, stride: Sizes of the kernel and the stride.
        size: Height and width of the input.
        channels, filters: Input and output channels.
        padding: `"same"` or `"valid"`.
        networks: Names of the networks that have it.
    """

    kernel: int
    stride: int
    size: int
    channels: int
    filters: int
    padding: str = "same"
    networks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `"3x3/2 56x56 64-128"`: kernel and stride, image, channels and filters."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        valid = " valid" if self.padding == "valid" and self.kernel > 1 else ""
        return f"{self.kernel}x{self.kernel}{stride} {self.size}x{self.size} {self.channels}-{self.filters}{valid}"


# (kernel, stride, size, channels, filters); ResNet-50 has its strides in the 3x3 convolutions, as all do today.
_TABLE: dict[str, list[tuple]] = {
    "resnet18": [
        (7, 2, 224, 3, 64),
        *[(3, 1, 56, 64, 64), (3, 2, 56, 64, 128), (1, 2, 56, 64, 128)],
        *[(3, 1, 28, 128, 128), (3, 2, 28, 128, 256), (1, 2, 28, 128, 256)],
        *[(3, 1, 14, 256, 256), (3, 2, 14, 256, 512), (1, 2, 14, 256, 512)],
        (3, 1, 7, 512, 512),
    ],
    "resnet50": [
        (7, 2, 224, 3, 64),
        *[(1, 1, 56, 64, 64), (3, 1, 56, 64, 64), (1, 1, 56, 64, 256), (1, 1, 56, 256, 64)],
        *[(1, 1, 56, 256, 128), (3, 2, 56, 128, 128), (1, 2, 56, 256, 512)],
        *[(3, 1, 28, 128, 128), (1, 1, 28, 128, 512), (1, 1, 28, 512, 128)],
        *[(1, 1, 28, 512, 256), (3, 2, 28, 256, 256), (1, 2, 28, 512, 1024)],
        *[(3, 1, 14, 256, 256), (1, 1, 14, 256, 1024), (1, 1, 14, 1024, 256)],
        *[(1, 1, 14, 1024, 512), (3, 2, 14, 512, 512), (1, 2, 14, 1024, 2048)],
        *[(3, 1, 7, 512, 512), (1, 1, 7, 512, 2048), (1, 1, 7, 2048, 512)],
    ],
    "vgg16": [
        *[(3, 1, 224, 3, 64), (3, 1, 224, 64, 64), (3, 1, 112, 64, 128), (3, 1, 112, 128, 128)],
        *[(3, 1, 56, 128, 256), (3, 1, 56, 256, 256)],
        *[(3, 1, 28, 256, 512), (3, 1, 28, 512, 512), (3, 1, 14, 512, 512)],
    ],
    "mcifarnet": [
        *[(3, 1, 32, 3, 64, "valid"), (3, 1, 30, 64, 64), (3, 2, 30, 64, 128), (3, 1, 15, 128, 128)],
        *[(3, 2, 15, 128, 192), (3, 1, 8, 192, 192)],
    ],
}


def shapes(substring: str = "") -> Sequence[Shape]:
    """Lists the distinct convolutions of ResNet-18, ResNet-50, VGG-16 and M-CifarNet.

    Args:
        substring: Those whose name, or the name of a network that has them, contains this. Defaults to all.

    Returns:
        A list of `Shape`, from the largest image to the smallest.

    Raises:
        ValueError: If there is none.

    Example:

    >>> [shape.name for shape in shapes("7x7 512-512")]
    ['3x3 7x7 512-512']
    """
    networks: dict[tuple, list[str]] = {}
    for network, rows in _TABLE.items():
        for row in rows:
            networks.setdefault(row, []).append(network)
    known = [Shape(*row, networks=tuple(names)) for row, names in networks.items()]  # type: ignore[misc]
    found = [shape for shape in known if any(substring in text for text in (shape.name, *shape.networks))]
    if not found:
        raise ValueError(
            f"no convolution is called {substring!r}; names are such as {known[1].name!r}, networks {', '.join(_TABLE)}"
        )
    return sorted(found, key=lambda shape: (-shape.size, -shape.kernel, shape.stride, shape.channels, shape.filters))
