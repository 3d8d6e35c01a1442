"""The platform's own model: built, judged, stored."""
