import numpy as np

import fbs_keras


def test_mcifarnet_is_the_papers():
    model = fbs_keras.models.MCifarNet()
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == 1_296_074
    shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers}
    expected = {"conv0": (30, 30, 64), "conv2": (15, 15, 128), "conv5": (8, 8, 192), "conv7": (8, 8, 192)}
    assert expected.items() <= shapes.items()
    assert model.output_shape == (None, 10)


def test_mcifarnet_takes_other_images_and_classes():
    model = fbs_keras.models.MCifarNet((64, 48, 1), classes=7)
    assert model(np.zeros((2, 64, 48, 1), "float32")).shape == (2, 7)
