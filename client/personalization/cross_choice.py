"""Which blend ranks the items that only others have: weighed on own items, or as configured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.data.training import TrainingData
from client.personalization.item_cold import choose_blend
from client.personalization.leave_out import without_own
from client.personalization.other_catalogues import OtherCatalogues
from client.personalization.platform_model import CrossVerdict
from client.scoring.blend import Blend
from client.scoring.ease import EasePart
from client.scoring.factors import FactorModel
from common.config.platform import PersonalizationConfig, shipped_weights


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossChoice:
    """Holds what a platform has to choose from.

    Attributes:
        config: weights that are set there are not weighed.
        catalogues: the vocabulary as seen from the platform.
        shared: the federation's factors.
        towers: whether there is a deep model.
        linear: weights of the item-item model, or None.
        without_own: float32 ``[m, row]``: parameters, those of own items as the others' users alone have made them; None where
            that has to be reckoned at home.
    """

    config: PersonalizationConfig
    catalogues: OtherCatalogues
    shared: FactorModel
    towers: bool = False
    linear: EasePart | None = None
    without_own: NDArray[np.float32] | None = None

    def of(self, data: TrainingData, rng: np.random.Generator) -> tuple[Blend, CrossVerdict | None]:
        """The blend, and why; None where its weights are the shipped or configured ones, as where there is no item to rank."""
        config = self.config
        fixed = config.beta is not None or config.attribute_weight is not None or not config.attributes
        if fixed or self.shared.config.feedback != "implicit" or not self.catalogues.lacking:
            return self.configured(data), None
        parts = replace(self.catalogues.parts(data), factors_told=self.without_own is not None)
        known = without_own(self.shared, parts) if self.without_own is None else self.without_own
        chosen = choose_blend(parts, self.shared, known, rng, level=config.cross_level)
        if chosen is None:
            return self.configured(data), None
        blend, verdict = chosen
        return self._with_federated(blend, blend.weights.get("shared", 0.0)), verdict

    def configured(self, data: TrainingData) -> Blend:
        """With the shipped weights, or those that are set."""
        beta, attribute_weight = shipped_weights(self.config, private=self.catalogues.private)
        blend = self._with_federated(Blend(weights={"shared": 1.0}, beta=beta), 1.0)
        if attribute_weight > 0:
            blend = blend.with_part(self.catalogues.attributes(data), attribute_weight)
        return blend

    def _with_federated(self, blend: Blend, share: float) -> Blend:
        """With the scorers of which own users made what they say of every item that these could be judged on.

        No item-cold validation can weigh them: they stand beside the shared factors, whose weight is ``share``, in the
        configured proportion.
        """
        if self.towers and self.config.tower_weight * share > 0:
            blend = replace(blend, weights={**blend.weights, "towers": self.config.tower_weight * share})
        if self.linear is not None and self.config.linear_weight * share > 0:
            blend = blend.with_part(self.linear, self.config.linear_weight * share)
        return blend
