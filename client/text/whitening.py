"""Centring and whitening of text vectors on the public catalogue.

Sentence encoders put all texts of one domain into a narrow cone: a catalogue of films is nearly one direction, and cosines
between any two are high. What they have in common says nothing; whitening makes every direction in which they differ count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_PRIOR_TEXTS = 10.0
"""The mean is shrunk toward 0 as if that many further texts lay around 0: a single text must not become nothing."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """x ↦ (x − μ) W, scaled to unit length.

    Attributes:
        mean: μ, float64 ``[d]``.
        matrix: W, float64 ``[d, d]``.
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]

    @classmethod
    def fit(cls, vectors: NDArray[np.floating], power: float = 0.25) -> Whitening:
        """Fit on the vectors ``[n, d]`` of a catalogue; rows of zeros are items without text and do not count.

        The covariance Σ is shrunk as if d further texts differed equally in every direction: with few items it is nearly a
        multiple of the identity, and then W only centres.

        Args:
            vectors: float ``[n, d]``, finite.
            power: W = Σ^(−power/2): 0 centres only, 1 whitens wholly. What is told by few directions, such as the year in a
                title, is lost by the latter; what long texts tell gains from it (``python -m simulations.bench.text``).
        """
        texts = vectors[np.abs(vectors).max(axis=1, initial=0.0) > 0].astype(np.float64)
        dimension = vectors.shape[1]
        mean = texts.sum(axis=0) / (len(texts) + _PRIOR_TEXTS)
        if len(texts) < 2 or power == 0:
            return cls(mean, np.eye(dimension))
        centred = texts - texts.mean(axis=0)
        scatter = centred.T @ centred
        even = np.trace(scatter) / dimension
        if not even > 1e-12:
            return cls(mean, np.eye(dimension))  # all texts are alike
        # n·S + d·(tr S / d)·I, over n + d; only ratios count, since what comes out is scaled.
        shrunk = scatter / even + dimension / len(texts) * np.eye(dimension)
        values, directions = np.linalg.eigh(shrunk)
        scale = (values / values[-1]) ** (-power / 2)
        return cls(mean, (directions * scale) @ directions.T)

    def transform(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """float32 ``[n, d]`` of unit length; zero where ``vectors`` is."""
        white = (vectors.astype(np.float64) - self.mean) @ self.matrix
        white[np.abs(vectors).max(axis=1, initial=0.0) == 0] = 0.0
        lengths = np.linalg.norm(white, axis=1, keepdims=True)
        unit: NDArray[np.float32] = np.divide(white, lengths, out=np.zeros_like(white), where=lengths > 1e-9).astype(
            np.float32
        )
        return unit
