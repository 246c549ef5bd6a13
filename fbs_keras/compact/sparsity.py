"""Which tensors of an exported model are compact, and where they are expanded."""

import dataclasses

import keras

from fbs_keras import graph
from fbs_keras.compact import regions, rules
from fbs_keras.compact.steps import DENSE, Step, Tensor
from fbs_keras.graph.kinds import overridden
from fbs_keras.layers.fbs_conv2d import FBSConv2D


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model is exported.

    Attributes:
        graph: The model's `graph.Graph`, nested models inlined.
        steps: A `Step` for each of its nodes.
        inputs: The model's inputs, `Tensor`s.
        outputs: The model's outputs, `Tensor`s, as they come; compact ones are expanded.
        quantize: How the ops' constants are stored, one of `quantization.QUANTIZATIONS`.
    """

    graph: graph.Graph
    steps: list
    inputs: list
    outputs: list
    quantize: str | None = None

    def __str__(self):
        rows = [(step.node.name, step.action, step.inputs, step.outputs, step.reason) for step in self.steps]
        for tensor in self.outputs:
            if tensor.active is not None:
                dense = dataclasses.replace(tensor, active=None)
                rows.append(("(output)", DENSE, [tensor], [dense], "the model's output"))
        width = max((len(name) for name, *_ in rows), default=0)
        return "\n".join(
            f"{name:{width}}  {action:11}  {', '.join(map(str, inputs))} -> {', '.join(map(str, outputs))}"
            + (f"  (expanded: {reason})" if reason else "")
            for name, action, inputs, outputs, reason in rows
        )


def plan(model, batch_size, aligned=False, compact=True, quantize=None):
    """Decides which tensors of a model are compact.

    Args:
        model: A built Sequential or Functional Keras model.
        batch_size: The batch size of the exported model.
        aligned: Whether compact tensors of equal size hold the same channels, so that they may be added and the like.
            Not so for FBS layers, each of which chooses its own; so for a static net of the same width.
        compact: `False` for a plan in which every tensor is dense. Defaults to `True`.
        quantize: How weights are stored, one of `quantization.QUANTIZATIONS`, which tells the ops. Defaults to `None`.

    Returns:
        A `Plan`.

    Raises:
        TypeError, ValueError: If the model's graph cannot be read, or an FBS layer is of a class that overrides what
            `FBSConv2D` computes.

    Example:

    >>> print(plan(model, 1))
    conv0   fbs          1x32x32x3 -> 1x30x30x32/64
    ...
    """
    flat = graph.flatten(model)
    for node in flat.nodes:
        _check_unchanged(node)
    return plan_graph(flat, graph.specs(flat, model), batch_size, aligned, compact, quantize)


def _check_unchanged(node):
    """Raises for an FBS layer that does something else than the exported op."""
    if not isinstance(node.layer, FBSConv2D):
        return
    changes = overridden(node.layer, FBSConv2D)
    if changes:
        raise ValueError(
            f"layer {node.name!r} ({type(node.layer).__name__}) overrides {', '.join(changes)} of FBSConv2D, so that "
            "the exported op would not compute what it does; use an FBSConv2D in its place, with another gate by "
            "FBSConv2D(gate=layer), or export the model by model.export(format='litert'), which skips no channels"
        )


def plan_graph(flat, specs, batch_size, aligned=False, compact=True, quantize=None):
    """As `plan`, of a model that has been read: its `graph.flatten` and `graph.specs`."""
    tensors = {
        ref: Tensor((batch_size, *spec.shape[1:]), keras.backend.standardize_dtype(spec.dtype))
        for ref, spec in specs.items()
    }
    suppressed = regions.suppressed(flat, tensors)
    written: dict[tuple, list[graph.Ref]] = {}  # by each call
    for ref in tensors:
        written.setdefault(ref[:2], []).append(ref)
    steps: list[Step] = []
    fused: set[graph.Ref] = set()
    for node in flat.nodes:
        refs = written[node.output[:2]]
        inputs, outputs = [tensors[ref] for ref in node.inputs], [tensors[ref] for ref in refs]
        call = rules.Call(node, inputs, outputs, flat, tensors, suppressed, aligned, quantize)
        step = rules.decide(call, node.output in fused, compact)
        fused.update(follower.output for follower in step.followers)
        tensors.update(zip(refs, step.outputs, strict=True))
        steps.append(step)
    return Plan(
        flat,
        steps,
        inputs=[tensors[ref] for ref in graph.refs(flat.inputs)],
        outputs=[tensors[ref] for ref in graph.refs(flat.outputs)],
        quantize=quantize,
    )
