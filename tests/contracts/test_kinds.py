"""The kinds of contributions that crossfed has, each held to what every kind must keep to."""

from __future__ import annotations

import pytest

from common.contributions.kind import ContributionKind
from common.contributions.registry import KINDS
from tests.contracts.kind_contract import KindContract


class TestKinds(KindContract):
    @pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
    def kind(self, request: pytest.FixtureRequest) -> ContributionKind:
        kind: ContributionKind = request.param
        return kind
