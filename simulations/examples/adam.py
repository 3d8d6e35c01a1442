"""Matrix factorisation by gradient steps, as introductions to TensorFlow show it: a second way to the same objective.

Alternating least squares is faster and needs no learning rate; this is here to be compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from client.data.dataset import UserItemMatrix


def fit_with_adam(
    matrix: UserItemMatrix,
    rng: np.random.Generator,
    *,
    dimension: int,
    regularization: float,
    learning_rate: float = 0.05,
    steps: int = 1000,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Minimise Σ_ui (r_ui − uᵀv_i)² + λ(Σ_u‖u‖² + Σ_i‖v_i‖²) with Adam (Kingma & Ba 2015) over all ratings at once.

    Args:
        matrix: n × m ratings.
        rng: draws the first factors, standard normal.
        dimension: d.
        regularization: λ.
        learning_rate: of Adam; it falls to zero along a cosine, so that the end does not depend on the last step.
        steps: gradient steps.

    Returns:
        User factors float32 ``[n, d]`` and item factors float32 ``[m, d]``.
    """
    users = tf.Variable(rng.standard_normal((matrix.n_users, dimension)), dtype=tf.float32)
    items = tf.Variable(rng.standard_normal((matrix.n_items, dimension)), dtype=tf.float32)
    rows, columns = tf.constant(matrix.entry_users()), tf.constant(matrix.indices)
    ratings = tf.constant(matrix.values)
    optimizer = tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    optimizer.build([users, items])

    def step() -> None:
        with tf.GradientTape() as tape:
            predictions = tf.reduce_sum(tf.gather(users, rows) * tf.gather(items, columns), axis=1)
            penalty = tf.reduce_sum(users**2) + tf.reduce_sum(items**2)
            loss = tf.reduce_sum((ratings - predictions) ** 2) + regularization * penalty
        gradients = tape.gradient(loss, [users, items])
        optimizer.apply_gradients(zip([tf.convert_to_tensor(g) for g in gradients], [users, items], strict=True))

    traced = tf.function(step)
    for _ in range(steps):
        traced()
    return users.numpy(), items.numpy()
