"""Settings of the sequence model compared on MovieLens-1M, on a GPU and without TensorFlow, Flower or polars."""
