"""What a model costs: multiplications, parameters, memory, and densities for a wanted saving."""
