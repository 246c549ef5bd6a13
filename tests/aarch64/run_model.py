"""Runs in the emulator: python3 run_model.py MODEL DELEGATE IMAGES LOGITS [NAME:VALUE ...].

IMAGES and LOGITS are .npy files; images are run one at a time. NAME:VALUE are options of the delegate.
"""

import sys

import numpy as np
from ai_edge_litert import interpreter as litert

model, delegate, images, logits, *options = sys.argv[1:]
delegates = [litert.load_delegate(delegate, dict(option.split(":") for option in options))]
interpreter = litert.Interpreter(model, num_threads=1, experimental_delegates=delegates)
interpreter.allocate_tensors()
(source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
outputs = []
for image in np.load(images):
    interpreter.set_tensor(source["index"], image[None])
    interpreter.invoke()
    outputs.append(interpreter.get_tensor(result["index"])[0].copy())
np.save(logits, outputs)
