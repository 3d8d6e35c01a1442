from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def quiet(one_thread: None) -> None:
    """All federations here are tiny."""
