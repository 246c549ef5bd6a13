"""Top-k accuracy over the batches of a data set."""

import numpy as np
from tqdm import tqdm


def top_k(logits, labels, k):
    """Share of rows whose label is among the k largest logits."""
    return float((np.argsort(-logits, axis=-1, kind="stable")[:, :k] == labels[:, None]).any(axis=-1).mean())


def predict(function, batches, steps):
    """Runs `function` over batches of images; returns all logits and labels."""
    logits, labels = [], []
    for images, targets in tqdm(batches, total=steps, unit="batch", desc="evaluating"):
        logits.append(function(np.asarray(images)))
        labels.append(np.asarray(targets))
    return np.concatenate(logits), np.concatenate(labels)
