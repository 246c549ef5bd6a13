"""What the programs in scripts/ share. It is installed with fbs_keras, but is no part of its public interface.

It stands beside fbs_keras, not in it: a program reads its flags and silences TensorFlow's start before it imports
Keras, and `import fbs_keras` imports Keras at once.
"""
