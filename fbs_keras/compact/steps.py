"""What is done with each layer of an exported model: actions on tensors, some of which are compact.

An FBS layer writes its k winning channels only, `[N, H, W, k]`, with their indices. This form is kept as long as the
layers after it can work on it. Ops of ours, each of an action named in its module of `ops`:

- `fbs`: an FBS layer reads the compact tensor and gathers its weights' rows;
- `depthwise`: a depthwise convolution of a compact tensor, with the batch normalisation and the ReLU after it;
- `add`: an addition of tensors of one shape takes each as it comes and gives a dense tensor; a ReLU that alone reads
  the sum is part of it.

And without an op, or with more than that:

- `channelwise`: the layer treats channels alike and apart, or those that the tensor holds by parameters gathered for
  them, so it runs on the compact tensor; so do additions and the like of tensors that hold the same channels;
- `separable`: `depthwise`, and `rows` after it;
- `scale`: a product with a dense tensor of one pixel, squeeze-and-excite, gathers that;
- `concatenate`: values and indices are concatenated; a dense tensor counts as one that holds all its channels;
- `rows`: a Dense layer or a 1x1 convolution of several pixels gathers the rows of its kernel, and gives a dense tensor;
- `fused`: part of the layer before, as 2x2 max pooling with an FBS layer in int8, or zero padding with the depthwise
  convolution after it;
- `nothing`: `Suppress`, where the compact tensor lacks the suppressed channels anyway;
- `dense`: anything else gets dense tensors; compact ones are expanded with zeros, for the `reason` given.
"""

import dataclasses
import typing

from fbs_keras import graph

CHANNELWISE, SEPARABLE, SCALE, CONCATENATE = "channelwise", "separable", "scale", "concatenate"
ROWS, FUSED, NOTHING, DENSE = "rows", "fused", "nothing", "dense"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the exported model.

    Attributes:
        shape: Its dense shape, batch size included.
        dtype: Its dtype's name.
        active: How many of its channels it holds when it is compact; `None` when it is dense.
        winners: What chose these channels: tensors of the same `winners` hold the same.
    """

    shape: tuple
    dtype: str
    active: int | None = None
    winners: typing.Any = None

    def __str__(self):
        sizes = [str(size) for size in self.shape]
        if self.active is not None:
            sizes[-1] = f"{self.active}/{sizes[-1]}"
        return "x".join(sizes)


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of a layer and how it is exported: all that was decided. `export.tracing` only carries it out.

    Attributes:
        node: The `graph.Node`.
        action: One of those listed above.
        inputs: The `Tensor`s that the call reads, as they come.
        outputs: The `Tensor`s that it writes.
        expanded: The places among its inputs of those compact ones that it reads dense.
        ops: The ops of ours that it becomes, each of which reads what the one before wrote: several for a long sum.
        fuse: Whether these become ops in the file; otherwise built-in ops compute them.
        norm: The batch normalisation whose parameters are taken in, or gathered, or `None`.
        activation: The layer's activation where the ops do not apply it, or `None`.
        followers: The calls after it that are part of it.
        reason: Why compact inputs are expanded; empty where none is.
    """

    node: graph.Node
    action: str
    inputs: list
    outputs: list
    expanded: tuple = ()
    ops: tuple = ()
    fuse: bool = True
    norm: typing.Any = None
    activation: typing.Any = None
    followers: tuple = ()
    reason: str = ""

    @property
    def pool(self):
        """2 where an FBS layer takes in the 2x2 max pooling after it, else 1."""
        return max((getattr(op, "pool", 1) for op in self.ops), default=1)
