"""Our own trained models, which come with the package."""

import hashlib
import pathlib

import keras

FOLDER = pathlib.Path(__file__).parent / "checkpoints"


def load(files, dataset, density):
    """Loads a trained model.

    Args:
        files: `{(dataset, density): (file name, SHA-256)}`; the density is `None` for the dense model.
        dataset: The data set it was trained on.
        density: The density it was trained for, or `None`.

    Returns:
        The Keras model, not compiled.

    Raises:
        ValueError: If there is no such model, or its file is not the one that was committed.
    """
    if (dataset, density) not in files:
        known = ", ".join(f"weights={name!r}, density={value}" for name, value in files)
        raise ValueError(f"there are trained weights for {known}; got weights={dataset!r}, density={density!r}")
    name, sha256 = files[dataset, density]
    found = hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{FOLDER / name} is damaged: expected SHA-256 {sha256}, got {found}; install fbs_keras again")
    return keras.saving.load_model(FOLDER / name, compile=False)
