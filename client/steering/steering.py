"""How a list is made beyond its order by score: as the platform has configured it, and as a request asks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.config.serving import SteeringConfig


@dataclass(frozen=True, slots=True)
class Steering:
    """Holds what a request asks of its list.

    Attributes:
        allow_keys: only these items may be listed; empty: all.
        deny_keys: these may not.
        foreign_share: share of items that only other platforms have, in a list of both scopes; None: as scores have it.
        diversity: 1 − λ of maximal marginal relevance, 0 … 1; None: as configured.
        novelty: weight of being little known, 0 … 1; None: as configured.
    """

    allow_keys: tuple[str, ...] = ()
    deny_keys: tuple[str, ...] = ()
    foreign_share: float | None = None
    diversity: float | None = None
    novelty: float | None = None

    def over(self, config: SteeringConfig) -> Steering:
        """The same, with what is not asked for as it is configured."""
        return replace(
            self,
            foreign_share=config.foreign_share if self.foreign_share is None else self.foreign_share,
            diversity=config.diversity if self.diversity is None else self.diversity,
            novelty=config.novelty if self.novelty is None else self.novelty,
        )

    @property
    def reorders(self) -> bool:
        """Whether the list is any other than the best by score of what may be listed."""
        return bool(self.foreign_share is not None or self.diversity or self.novelty)


AS_CONFIGURED = Steering()
