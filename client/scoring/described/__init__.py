"""Scorers of what is publicly known of items; imported together, so that the store knows them."""

from client.scoring.described.counted import CountedPart, category_part
from client.scoring.described.nearest import fit_nearest
from client.scoring.described.prior import PriorPart
from client.scoring.described.profile import ProfilePart, fit_profile

__all__ = [
    "CountedPart",
    "PriorPart",
    "ProfilePart",
    "category_part",
    "fit_nearest",
    "fit_profile",
]
