"""Faults that an audit puts in: each fits the code that ships today."""

from __future__ import annotations

import pytest

from client.data.independence import withheld_by_user
from simulations.audit.audited.faults import FAULTS, Fault, check_takes_place, injected


@pytest.mark.parametrize("fault", FAULTS)
def test_what_takes_a_place_takes_the_same_parameters(fault: Fault) -> None:
    with injected(fault):
        pass


def test_a_parameter_that_came_later_is_noticed() -> None:
    def older(matrix: object, user_ids: object, *, key: str, users_share: float, share: float) -> None: ...

    with pytest.raises(
        TypeError, match=r"fault shared-split: .*withheld_by_user.* unexpected keyword argument 'latest'"
    ):
        check_takes_place("shared-split", withheld_by_user, older)
