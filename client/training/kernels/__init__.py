"""Solves blocks of row systems on a device: compiled on a CPU, in TensorFlow on a GPU."""
