"""Differences between the libraries that Keras computes with: TensorFlow, JAX and PyTorch.

Keras takes the one that ``KERAS_BACKEND`` names, TensorFlow unless set. Everything else of the deep models is written in
:mod:`keras.ops` and knows none of them.
"""
