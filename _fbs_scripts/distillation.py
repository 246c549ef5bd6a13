"""Training on labels and on what a teacher predicts: Hinton et al., "Distilling the Knowledge in a Neural Network"."""

import numpy as np


class SoftLabels:
    """Batches with labels that are partly a teacher's: `(1 - weight) * labels + weight * softmax(teacher(images))`.

    The loss of these labels is the usual sum of the loss of the labels and the distance from the teacher.

    Args:
        batches: A `tf.data.Dataset` of `(images, one-hot labels)`.
        teacher: A Keras model from images to logits.
        weight: The teacher's share, in [0, 1].
    """

    def __init__(self, batches, teacher, weight):
        self.batches = batches
        self.teacher = teacher
        self.weight = weight

    def __iter__(self):
        """Goes through the batches again and again, as `fit` wants a generator to."""
        while True:
            for images, labels in self.batches.as_numpy_iterator():
                probabilities = softmax(self.teacher.predict_on_batch(images))
                yield images, (1 - self.weight) * labels + self.weight * probabilities


def softmax(logits):
    """Probabilities of each row of logits."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
