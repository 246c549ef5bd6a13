"""FBSConv2D: convolution, normalisation and gate in one layer."""

import contextlib
import functools
import types
import typing
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from fbs_keras.layers import gates, gating

# What a file holds of an FBSConv2D, in this order; batch norm's averages are stored with the layer in it.
STORED = ("kernel", "bias", "gate_kernel", "gate_bias", "density", "saliency_weight", "usage", "saliency")
# Weights that can be frozen each by itself.
FREEZABLE = ("kernel", "bias", "gate_kernel", "gate_bias")


@keras.saving.register_keras_serializable(package="fbs_keras")
class FBSConv2D(keras.layers.Conv2D):
    """2D convolution whose output channels are boosted or suppressed for each input (FBS).

    Computes

        s  = mean_{h,w} |x|                    # saliency of the input channels
        g  = relu(s @ phi + rho)               # predicted saliency of the output channels
        pi = wta_k(g), k = ceil(density * filters)
        y  = activation(pi * (norm(conv(x)) + bias))

    where `norm` is batch normalisation without gamma, whose place `pi` takes. All but the k winning channels of `y`
    are zero: `fbs_keras.convert` writes a model that skips them, here they are computed and masked.

    With `gate`, a layer of your own takes the place of `s @ phi + rho`, and `gate_input` is what it reads:

        g  = relu(gate(s))

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Integer or pair of integers.
        strides: Integer or pair of integers. Defaults to `(1, 1)`.
        padding: `"valid"` (default) or `"same"`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to `keras.config.image_data_format()`.
        dilation_rate: Integer or pair of integers. Defaults to `(1, 1)`.
        groups: Must be 1. Grouped and depthwise convolutions are not gated.
        activation: A function with f(0) = 0, so that suppressed channels stay zero. Defaults to `"relu"`.
        use_bias: Whether to add the bias (the paper's beta). Defaults to `True`.
        kernel_initializer: Defaults to `"glorot_uniform"`.
        bias_initializer: Defaults to `"zeros"`.
        gate_kernel_initializer: Initializer of phi, `(channels, filters)`. The default, a tenth of the paper's
            He-normal, keeps the gates near 1 while the network finds its scale.
        gate_bias_initializer: Initializer of rho, `(filters,)`. Defaults to `"ones"`.
        kernel_regularizer, bias_regularizer, gate_kernel_regularizer, gate_bias_regularizer, activity_regularizer:
            Optional regularizers.
        kernel_constraint, bias_constraint, gate_kernel_constraint, gate_bias_constraint: Optional constraints.
        density: The fraction of output channels that win, in (0, 1]. Defaults to 1. It is a variable of the layer: see
            `fbs_keras.set_density` and `fbs_keras.DensityScheduler`.
        group_size: Winners are whole groups of this many neighbouring channels; it must divide `filters`. Defaults
            to 1, the paper's.
        round_channels: k is rounded up to a multiple of this, but not above `filters`. Kernels compute 16 channels at
            a time on the widest CPUs, so a k of 20 costs what 32 do. Defaults to 1, the paper's: no rounding.
        normalize: Whether `norm` is batch normalisation (default) or the identity.
        momentum: Momentum of the moving averages. Defaults to 0.99.
        epsilon: Added to the variance in `norm`. Defaults to 1e-3.
        norm_trainable: `False` freezes `norm` alone: it uses and keeps its moving averages. Defaults to `True`.
        frozen: Names of weights that are not trained though the layer is: `"kernel"`, `"bias"`, `"gate_kernel"`,
            `"gate_bias"`. Setting `layer.trainable` sets it for all weights. Defaults to none.
        return_mask: Whether to return the winners too, for a `Suppress` layer further on. Defaults to `False`.
        gate: A Keras layer or model that predicts g, `(batch, filters)`, in float32, such as a Sequential model of two
            Dense layers. There is no phi and rho then. Defaults to `None`: `s @ phi + rho`, which our delegate computes
            as a part of the convolution; another gate runs as ordinary layers do.
        gate_input: What the gate reads: `"mean"` (default), s as above, `(batch, channels)`; `"max"`, s with
            `max_{h,w} |x|` instead; or, for a `gate` of your own, `"x"`, the layer's whole input.
        **kwargs: `name`, `dtype`, `trainable`, as for any Keras layer; `lora_rank` and `lora_alpha`, as for `Conv2D`.
            Under half precision, only the convolution and the output are in it: all between is float32.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height, width)` for `"channels_first"`.

    Output shape:
        `(batch, new_height, new_width, filters)`, or with channels first. With `return_mask`, a pair: this and
        `(batch, filters)`, 1 for a winner and 0 for a suppressed channel.

    Raises:
        TypeError: If `density` is not a number, `group_size` or `round_channels` no integer, or `gate` no layer.
        ValueError: If `density` is not in (0, 1], `groups` is not 1, `group_size` does not divide `filters`,
            `round_channels` is not positive, `frozen` names another weight, `activation` moves zero, `dtype` is a
            policy of quantized weights, `gate_input` is unknown, or phi or rho have a regularizer or constraint beside
            a `gate`; when it is built, if `gate` cannot read its input or returns another shape.

    Example:

    >>> layer = fbs_keras.FBSConv2D(64, 3, padding="same", density=0.5)
    >>> layer(keras.random.normal((8, 32, 32, 16))).shape
    (8, 32, 32, 64)

    A bottleneck, which starts with all gates near 1:

    >>> gate = keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(64, bias_initializer="ones")])
    >>> layer = fbs_keras.FBSConv2D(64, 3, padding="same", density=0.5, gate=gate)

    Source: Gao et al., "Dynamic Channel Pruning: Feature Boosting and Suppression", ICLR 2019, section 3.
    """

    lora_rank: int | None  # Conv2D's
    gate_kernel: typing.Any  # None with a gate of the user's own, as is gate_bias

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: typing.Any = "relu",
        use_bias: bool = True,
        kernel_initializer: typing.Any = "glorot_uniform",
        bias_initializer: typing.Any = "zeros",
        gate_kernel_initializer: typing.Any = None,
        gate_bias_initializer: typing.Any = "ones",
        kernel_regularizer: typing.Any = None,
        bias_regularizer: typing.Any = None,
        gate_kernel_regularizer: typing.Any = None,
        gate_bias_regularizer: typing.Any = None,
        activity_regularizer: typing.Any = None,
        kernel_constraint: typing.Any = None,
        bias_constraint: typing.Any = None,
        gate_kernel_constraint: typing.Any = None,
        gate_bias_constraint: typing.Any = None,
        density: float = 1.0,
        group_size: int = 1,
        round_channels: int = 1,
        normalize: bool = True,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        norm_trainable: bool = True,
        frozen: Sequence[str] = (),
        return_mask: bool = False,
        gate: keras.layers.Layer | dict | None = None,
        gate_input: str = "mean",
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(
            filters=filters,
            kernel_size=kernel_size,
            strides=strides,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            activation=activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            activity_regularizer=activity_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        if self.dtype_policy.quantization_mode is not None:
            raise ValueError(
                f"dtype must be a policy of floating-point numbers in FBSConv2D, got {self.dtype_policy.name!r}; "
                'for an int8 file use fbs_keras.convert(model, path, quantize="dynamic_int8")'
            )
        if groups != 1:
            raise ValueError(f"groups must be 1 in FBSConv2D, got {groups}; use Conv2D for grouped convolutions")
        check_count(group_size, "group_size")
        check_count(round_channels, "round_channels")
        if filters % group_size:
            raise ValueError(f"group_size must divide filters = {filters}, got {group_size}")
        if not keeps_zero(self.activation):
            raise ValueError(
                f"activation must map 0 to 0, so that suppressed channels stay zero, got {activation!r}; "
                "use activation=None and a separate Activation layer"
            )
        # 0.02 = 2 * 0.1 ** 2: He-normal is VarianceScaling(2). The full one has diverged within an epoch at d = 0.5,
        # since every gate multiplies the activations that the next gate reads.
        if gate_kernel_initializer is None:
            gate_kernel_initializer = keras.initializers.VarianceScaling(0.02, "fan_in", "truncated_normal")
        self.gate_kernel_initializer = keras.initializers.get(gate_kernel_initializer)
        self.gate_bias_initializer = keras.initializers.get(gate_bias_initializer)
        self.gate_kernel_regularizer = keras.regularizers.get(gate_kernel_regularizer)
        self.gate_bias_regularizer = keras.regularizers.get(gate_bias_regularizer)
        self.gate_kernel_constraint = keras.constraints.get(gate_kernel_constraint)
        self.gate_bias_constraint = keras.constraints.get(gate_bias_constraint)
        self.gate_layer = gates.check_gate(gate, gate_input)
        if self.gate_layer is not None:
            gates.check_no_rules(self)
        self.gate_input = gate_input
        self.group_size = group_size
        self.round_channels = round_channels
        self.normalize = normalize
        self.momentum = momentum
        self.epsilon = epsilon
        self.norm_trainable = norm_trainable
        self.frozen = _check_frozen(frozen)
        self.return_mask = return_mask
        self.channel_axis = -1 if self.data_format == "channels_last" else 1
        self.norm = None
        if normalize:
            self.norm = keras.layers.BatchNormalization(
                axis=self.channel_axis,
                momentum=momentum,
                epsilon=epsilon,
                center=False,
                scale=False,
                trainable=self.trainable and norm_trainable,
                dtype=self.dtype_policy,
                name="norm",
            )
            self.norm.quantize = self.quantize  # Model.quantize asks the innermost layers only
        self.density = self._add_state("density", gating.check_density(density))
        self.saliency_weight = self._add_state("saliency_weight", 0.0)

    def _add_state(self, name, value, shape=()):
        """Adds a float32 variable that no gradient trains and no dtype policy casts."""
        return self.add_weight(
            name=name,
            shape=shape,
            # As a constant, in a third of the time that Keras's Constant takes to compute it.
            initializer=lambda shape, dtype: ops.convert_to_tensor(np.full(shape, value, dtype), dtype),
            dtype="float32",
            trainable=False,
            autocast=False,
        )

    def build(self, input_shape):
        # LoRA's weights come last, as where it is enabled later: what get_weights returns fits either layer.
        lora_rank = self.lora_rank
        self.lora_rank: int | None = None
        super().build(input_shape)
        self.gate_kernel = self.gate_bias = None
        if self.gate_layer is None:
            self._add_linear_gate(input_shape[self.channel_axis])
        else:
            gates.build_gate(self, self.gate_input_shape((None, *input_shape[1:])), self._gate_dtype)
        self.usage = self._add_state("usage", 1.0, (self.filters,))
        self.saliency = self._add_state("saliency", 0.0, (self.filters,))
        if self.norm is not None:
            self.norm.build(super().compute_output_shape(input_shape))
        if lora_rank:
            alpha = {"lora_alpha": self.lora_alpha} if hasattr(self, "lora_alpha") else {}  # not in Keras 3.8
            self.enable_lora(lora_rank, **alpha)
        weights = self._stored_weights()
        for name in self.frozen:
            if name in weights:
                weights[name].trainable = False

    def _add_linear_gate(self, channels):
        # autocast=False: half precision would decide between channels by rounding.
        self.gate_kernel = self.add_weight(
            name="gate_kernel",
            shape=(channels, self.filters),
            initializer=self.gate_kernel_initializer,
            regularizer=self.gate_kernel_regularizer,
            constraint=self.gate_kernel_constraint,
            autocast=False,
        )
        self.gate_bias = self.add_weight(
            name="gate_bias",
            shape=(self.filters,),
            initializer=self.gate_bias_initializer,
            regularizer=self.gate_bias_regularizer,
            constraint=self.gate_bias_constraint,
            autocast=False,
        )

    def gate_input_shape(self, input_shape: tuple) -> tuple:
        """The shape of what the gate reads, given that of the layer's input."""
        return tuple(input_shape) if self.gate_input == "x" else (input_shape[0], input_shape[self.channel_axis])

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(input_shape)
        return (shape, (input_shape[0], self.filters)) if self.return_mask else shape

    def _widen(self, x):
        """Casts to the dtype of all that is not the convolution itself: float32, or float64 under that policy."""
        return ops.cast(x, self._gate_dtype)

    @property
    def _gate_dtype(self):
        # Not by keras.backend.result_type: of float64 and float32 it makes float32 on PyTorch.
        return "float64" if self.compute_dtype == "float64" else "float32"

    def read_gate_input(self, x: typing.Any) -> typing.Any:
        """Computes what the gate reads: the saliencies of the input channels, `[N, channels]`, or x itself."""
        x = self._widen(x)
        return x if self.gate_input == "x" else gating.SALIENCIES[self.gate_input](x, self.data_format)

    def predict_from(self, s: typing.Any) -> typing.Any:
        """Computes g, `[N, filters]`, in float32 or better, of what `read_gate_input` returns."""
        if self.gate_layer is not None:
            return ops.relu(self._widen(self.gate_layer(s)))
        return gating.predict(s, self._widen(self.gate_kernel), self._widen(self.gate_bias))

    def predict_saliency(self, x: typing.Any) -> typing.Any:
        """Computes `g = relu(ss(x) @ phi + rho)`, or by another gate, `[N, filters]`, in float32 or better."""
        return self.predict_from(self.read_gate_input(x))

    def winners(self, g: typing.Any) -> typing.Any:
        """Marks the k winners of each row of g with 1, the others with 0, `[N, filters]`."""
        return gating.winners(g, self.density, self.group_size, self.round_channels)

    def gate(self, x: typing.Any) -> typing.Any:
        """Computes `pi = wta_k(g(x))`, `[N, filters]`: 0 for a suppressed channel, its boost for a winner."""
        return gating.winner_take_all(self.predict_saliency(x), self.density, self.group_size, self.round_channels)

    def call(self, inputs, training=False):
        # Keras leaves integers as they are, and the weights of a layer whose policy was changed.
        inputs, kernel = (ops.cast(each, self.compute_dtype) for each in (inputs, self.kernel))
        g = self.predict_saliency(inputs)
        mask = self.winners(g)
        self.add_loss(self.saliency_weight * ops.cast(ops.mean(ops.sum(g, axis=-1)), "float32"))
        if training:
            self._update_usage(ops.mean(mask, axis=0))
            self._update_average(self.saliency, ops.mean(g, axis=0), self.momentum)
        y = self._widen(self.convolution_op(inputs, kernel))
        mean, std = (0.0, 1.0) if self.norm is None else self._mean_and_std(self.norm, y, training)
        bias = self._widen(self.bias) if self.use_bias else 0.0
        # pi * ((y - mean) / std + bias) in one pass over y, as batch norm alone would take.
        pi = g * mask
        scale, shift = pi / std, pi * (bias - mean / std)
        per_channel = (1, 2) if self.channel_axis == -1 else (2, 3)
        y = y * ops.expand_dims(scale, per_channel) + ops.expand_dims(shift, per_channel)
        y = self.activation(ops.cast(y, self.compute_dtype))
        return (y, ops.cast(mask, y.dtype)) if self.return_mask else y

    def _mean_and_std(self, norm, y, training):
        """Each channel's mean and standard deviation: this batch's in training, else norm's moving averages."""
        mean, variance = self._widen(norm.moving_mean), self._widen(norm.moving_variance)
        if training and norm.trainable and self.norm_trainable:  # layer.trainable = True reaches norm too
            mean, variance = ops.moments(y, axes=(0, 1, 2) if self.channel_axis == -1 else (0, 2, 3))
            self._update_average(norm.moving_mean, mean, norm.momentum)
            self._update_average(norm.moving_variance, variance, norm.momentum)
        return mean, ops.sqrt(variance + norm.epsilon)

    def _update_usage(self, usage):
        """Moves the average of how often each channel wins, which starts with the first batch at a density.

        It sums to the number of winners: as ones, which it is at first, it is that of density 1, where all win.
        """
        usage = ops.cast(ops.stop_gradient(usage), "float32")
        before = ops.convert_to_tensor(self.usage)
        before = ops.where(ops.abs(ops.sum(before) - ops.sum(usage)) < 0.5, before, usage)
        self.usage.assign(before * self.momentum + usage * (1.0 - self.momentum))

    def _update_average(self, variable, value, momentum):
        """Moves a per-channel moving average towards this batch's value."""
        average = self._widen(variable) * momentum + self._widen(ops.stop_gradient(value)) * (1.0 - momentum)
        variable.assign(ops.cast(average, variable.dtype))

    @property
    def active_channels(self) -> int:
        """k, the number of channels that win at the present density."""
        return gating.active_channels(self.density.numpy(), self.filters, self.group_size, self.round_channels)

    def quantize(self, mode=None, *args, **kwargs):
        raise NotImplementedError(
            f"FBSConv2D {self.name!r} has no quantized form in Keras and stays as it is; "
            'for an int8 file use fbs_keras.convert(model, path, quantize="dynamic_int8")'
        )

    def _stored_weights(self):
        """The layer's own weights but for LoRA's, by name, in the order of a file."""
        of_gate = {id(weight) for weight in ([] if self.gate_layer is None else self.gate_layer.weights)}
        own = {weight.name: weight for weight in reversed(self.weights) if id(weight) not in of_gate}
        return {name: own[name] for name in STORED if name in own}

    def save_own_variables(self, store):
        for index, weight in enumerate(self._stored_weights().values()):
            store[str(index)] = self._merged(weight) if weight.name == "kernel" else weight

    def _merged(self, kernel):
        """The kernel with LoRA's part, as Conv2D stores it: the file is the same with LoRA and without."""
        if not self.lora_enabled:
            return kernel
        rank = self.lora_kernel_a.shape[-1]
        scale = getattr(self, "lora_alpha", rank) / rank
        return ops.cast(ops.add(kernel, scale * ops.matmul(self.lora_kernel_a, self.lora_kernel_b)), kernel.dtype)

    def load_own_variables(self, store):
        weights = list(self._stored_weights().values())
        if len(store.keys()) != len(weights):
            raise ValueError(
                f"FBSConv2D {self.name!r} expected {len(weights)} weights ({', '.join(w.name for w in weights)}), "
                f"but the file has {len(store.keys())}; make the layer with the arguments of the one that was saved"
                + ("" if self.built else ", and build it first")
            )
        for index, weight in enumerate(weights):
            weight.assign(store[str(index)])
        if self.lora_enabled:  # the kernel has it all; with the other factor zero too, LoRA would learn no more
            self.lora_kernel_b.assign(ops.zeros(self.lora_kernel_b.shape))

    def _frozen_now(self):
        """Which weights are not trained though the layer is; a frozen layer remembers which were not."""
        if not (self.built and self.trainable):
            return list(self.frozen)
        weights = self._stored_weights()
        # LoRA freezes the kernel itself.
        names = [name for name in FREEZABLE if name in weights and not (name == "kernel" and self.lora_enabled)]
        return [name for name in names if not weights[name].trainable]

    def get_config(self):
        return {
            **super().get_config(),
            "gate_kernel_initializer": keras.initializers.serialize(self.gate_kernel_initializer),
            "gate_bias_initializer": keras.initializers.serialize(self.gate_bias_initializer),
            "gate_kernel_regularizer": keras.regularizers.serialize(self.gate_kernel_regularizer),
            "gate_bias_regularizer": keras.regularizers.serialize(self.gate_bias_regularizer),
            "gate_kernel_constraint": keras.constraints.serialize(self.gate_kernel_constraint),
            "gate_bias_constraint": keras.constraints.serialize(self.gate_bias_constraint),
            "density": current_density(self),
            "group_size": self.group_size,
            "round_channels": self.round_channels,
            "normalize": self.normalize,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            # A norm frozen by itself later on is frozen in a copy too.
            "norm_trainable": self.norm_trainable and (self.norm is None or self.norm.trainable or not self.trainable),
            "frozen": self._frozen_now(),
            "return_mask": self.return_mask,
            "gate": None if self.gate_layer is None else keras.saving.serialize_keras_object(self.gate_layer),
            "gate_input": self.gate_input,
        }


def _check_frozen(names):
    """Returns the argument `frozen` as a list, or raises."""
    if isinstance(names, str) or not all(name in FREEZABLE for name in names):
        raise ValueError(f"frozen must hold names of {', '.join(map(repr, FREEZABLE))}, got {names!r}")
    return list(names)


def check_count(value, name):
    """Raises unless the argument `name` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def keeps_zero(activation):
    """Whether an activation function maps a map of zeros to zeros, so that suppressed channels stay suppressed.

    Of a function that treats every element by itself one zero tells. What mixes channels may make something else of a
    zero beside other values: `channelwise.treats_elements_apart` knows.

    Args:
        activation: A function, or a layer used as one, which stays as it is.

    Returns:
        A bool: `False` also for a function that fails on one channel, such as `glu`, or a layer with weights, but for
        `PReLU`.
    """
    if isinstance(activation, keras.layers.Layer):
        if type(activation) is keras.layers.PReLU:
            return True
        if activation.weights:
            return False
        # A layer that is not built would get weights for one channel.
        with contextlib.suppress(Exception):
            activation = type(activation).from_config(activation.get_config())
    elif isinstance(activation, types.FunctionType) and (activation.__module__ or "").startswith("keras."):
        return _function_keeps_zero(activation)
    return _maps_zeros_to_zeros(activation)


def _maps_zeros_to_zeros(activation):
    zeros = ops.zeros((1, 1, 1, 1))
    try:
        value = ops.convert_to_numpy(activation(zeros))
    except Exception:  # whatever a user's function raises for a shape that it was not made for
        return False
    return value.shape == zeros.shape and not value.any() and not getattr(activation, "weights", ())


# Of a function of Keras's own once: networks have the same few, and it takes a while.
_function_keeps_zero = functools.cache(_maps_zeros_to_zeros)


def current_density(layer):
    """The density of a layer, in the shortest digits that mean it: float32 holds 0.7 as 0.699999988."""
    return float(str(layer.density.numpy()))
