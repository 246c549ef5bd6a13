"""Chains of layers that pass an FBS layer's channels on, each the only reader of the one before."""

import collections
import dataclasses
import functools

import keras

from fbs_keras import graph
from fbs_keras.graph.channelwise import is_channelwise, moves_zero


@dataclasses.dataclass(frozen=True)
class Scope:
    """A model, or one nested in it, as a place where layers follow each other.

    Attributes:
        prefix: The names of the models that it is in, and its own: `"backbone/"`; empty for the whole model.
        model: That model.
        graph: Its `graph.Graph`.
        calls: The calls of each layer in it, `{layer: list of Node}`.
        owners: In how many models, of the whole model and those nested in it, each layer stands, `{layer: count}`.
    """

    prefix: str
    model: keras.Model
    graph: graph.Graph
    calls: dict
    owners: collections.Counter

    @functools.cached_property
    def tensors(self):
        """The shape and dtype of each tensor, `{Ref: KerasTensor}`."""
        return graph.specs(self.graph, self.model)

    def only_reader(self, node):
        """The call that alone reads a call's output, of a layer that is called only there and plainly; else `None`."""
        readers = self.graph.consumers(node.output)
        if len(readers) != 1 or self.graph.is_output(node.output):
            return None
        reader = readers[0]
        if len(self.calls[reader.layer]) > 1 or self.owners[reader.layer] > 1:
            return None
        # Not called with training=True, say, which the FBS layer would not do.
        plain = reader.args == (node.output,) and all(value is None for value in reader.kwargs.values())
        return reader if plain else None


def scopes(model):
    """Lists a model and those nested in it, each once, as `Scope`s.

    Args:
        model: A built Sequential or Functional Keras model.

    Returns:
        `{model: Scope}`, the whole model first. A nested subclassed model is none.
    """
    found: dict[keras.layers.Layer, Scope] = {}
    owners: collections.Counter[keras.layers.Layer] = collections.Counter()

    def visit(owner, prefix):
        model_graph = graph.read(owner)
        calls: dict[keras.layers.Layer, list[graph.Node]] = {}
        for node in model_graph.nodes:
            calls.setdefault(node.layer, []).append(node)
        owners.update(calls.keys())
        found[owner] = Scope(prefix, owner, model_graph, calls, owners)
        for layer in (nodes[0].layer for nodes in calls.values()):
            if isinstance(layer, keras.Model) and graph.is_readable(layer) and layer not in found:
                visit(layer, f"{prefix}{layer.name}/")

    visit(model, "")
    return found


def chain_behind(node, scope, channel_axis):
    """Lists the calls after `node` that treat every channel by itself, each the only reader of the one before.

    Args:
        node: The call that ends an FBS layer.
        scope: The `Scope` that it is in.
        channel_axis: Which dimension the channels are, -1 or 1.

    Returns:
        A list of `graph.Node`.
    """
    chain: list[graph.Node] = []
    while (reader := scope.only_reader(node)) is not None:
        if not is_channelwise(reader.layer, scope.tensors[node.output].shape, channel_axis):
            break
        chain.append(reader)
        node = reader
    return chain


def needs_suppression(chain, reads_rows):
    """Whether the losers of an FBS layer are to be zeroed at the end of the chain after it, because it pays.

    Layers that move zero fill the channels that the FBS layer suppressed. Zeroed at the end, they need not be computed
    in a depthwise convolution of the chain, nor read by a convolution after it.

    Args:
        chain: From `chain_behind`.
        reads_rows: Whether a layer that reads the chain's end skips the channels that are zero.
    """
    depthwise = any(type(node.layer) is keras.layers.DepthwiseConv2D for node in chain)
    return (depthwise or reads_rows) and any(moves_zero(node.layer) for node in chain)
