"""The plan of an export: which tensors are compact, by which rule, and why not. It imports no TensorFlow."""
