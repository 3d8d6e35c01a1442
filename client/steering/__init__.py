"""Steering a list beyond its order by score: hidden items, allow and deny lists, diversity, novelty, shares, caps."""
