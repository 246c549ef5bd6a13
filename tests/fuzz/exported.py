"""Converts small Keras models for mutants.py: PYTHONPATH=tests python -m fuzz.exported folder."""

import sys
from pathlib import Path

import small_models

import fbs_keras

# Every op of ours, between ops of LiteRT.
MODELS = [
    ("sequential", "portable", None),
    ("sequential", "custom", "dynamic_int8"),
    ("residual", "portable", "float16"),
    ("residual", "custom", None),
    ("inverted_residual", "portable", None),
    ("concatenation", "portable", "dynamic_int8"),
    ("gate_bottleneck", "portable", None),
    ("gate_max", "custom", "dynamic_int8"),
]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, target, quantize in MODELS:
        content = fbs_keras.convert(small_models.make(name), target=target, quantize=quantize)
        (folder / f"{name}, {target}, {quantize}.tflite").write_bytes(content)


if __name__ == "__main__":
    main()
