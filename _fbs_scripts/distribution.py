"""Data parallelism by one flag: a model on every device, each with its part of the batch.

One process uses all GPUs of its machine (or CPU devices, without any). Several processes, on one machine or many, work
together where the environment names them, as Keras does: KERAS_DISTRIBUTION_JOB_ADDRESSES, the `host:port` of each
process, comma-separated; KERAS_DISTRIBUTION_NUM_PROCESSES; KERAS_DISTRIBUTION_PROCESS_ID, from 0.
"""

import contextlib
import dataclasses
import functools
import operator
import os
import typing


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that train together.

    Attributes:
        count: How many, those of all processes together.
        processes: How many processes they belong to, as many to each.
        process: Which of them this is.
        strategy: The tf.distribute strategy, on the TensorFlow backend.
    """

    count: int = 1
    processes: int = 1
    process: int = 0
    strategy: typing.Any = None

    @property
    def chief(self):
        """Whether this process is the one that writes files."""
        return self.process == 0

    def scope(self):
        """The context in which models are made or loaded."""
        return self.strategy.scope() if self.strategy else contextlib.nullcontext()

    def batch_size(self, total):
        """The part of a batch that this process reads."""
        if total % self.count:
            raise ValueError(f"--batch_size must be a multiple of the {self.count} devices, got {total}")
        return total // self.processes

    def part(self, split):
        """The part of a TFDS split that this process reads: as many images for each device, without the rest."""
        if self.count == 1:
            return split
        import tensorflow_datasets as tfds

        share = self.count // self.processes
        parts = tfds.even_splits(split, self.count, drop_remainder=True)
        return functools.reduce(operator.add, parts[self.process * share : (self.process + 1) * share])

    @contextlib.contextmanager
    def alone(self):
        """The context in which one process does what the others do not, such as saving a model.

        With a Keras distribution set, every new variable waits for all processes, even one that Keras makes for itself.
        """
        import keras

        distribution = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(distribution)


def all_devices():
    """Finds the devices, and joins the other processes that the environment names; call it before any computation."""
    import keras

    backend = keras.backend.backend()
    cluster = "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ
    if backend == "jax":
        if cluster:
            keras.distribution.initialize()
        # Each process reads its own part of the data.
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
        return Devices(distribution.num_model_replicas, distribution.num_processes, distribution.data_shard_id)
    if backend == "tensorflow" and not cluster:
        import tensorflow as tf

        strategy = tf.distribute.MirroredStrategy()
        return Devices(strategy.num_replicas_in_sync, strategy=strategy)
    what = "in several processes" if cluster else "on several devices"
    raise ValueError(
        f"--distribute trains {what} with KERAS_BACKEND=jax{'' if cluster else ' or tensorflow'}, got {backend}"
    )
