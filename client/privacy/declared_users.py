"""How many users a platform says it has: a public number, and what decides where the true number must not show.

Whether a platform takes part can be seen by everybody. So that must not hang on the true number of users, which one user
more would change (user-level privacy is about adding or removing one). The operator declares a rounded number, and that is
compared with ``privacy.minimum_users`` and ``privacy.user_bound``; without one, nothing is. The true number is looked at
for the operator alone: a declaration that is wrong, however wrong, is told in the log and by ``doctor`` and changes nothing
that others could see.
"""

from __future__ import annotations

from logging import getLogger

from common.config.federation import FederationPlan
from common.errors import PrivacyError

_log = getLogger(__name__)


def check_declared_users(declared: int | None, plan: FederationPlan) -> None:
    """Refuse by the declared number alone.

    Args:
        declared: public; None where nothing is declared, and nothing is compared.
        plan: its bounds are public, too.

    Raises:
        PrivacyError: the platform declares itself too small to contribute, or larger than the public bound.
    """
    if declared is None or not plan.private:
        return
    least, most = plan.privacy.minimum_users, plan.privacy.user_bound
    if declared < least:
        raise PrivacyError(
            f"this platform declares fewer than privacy.minimum_users = {least} users: its noise would drown what they have "
            "to say, so it contributes nothing; it can still take part as a reader with catalogue.share: none"
        )
    if declared > most:
        raise PrivacyError(
            f"this platform declares more users than privacy.user_bound = {most}; agree on a higher bound, on which δ and "
            "the ring of the secure sum rest"
        )


def declaration_problem(declared: int | None, users: int, plan: FederationPlan) -> str | None:
    """Return what the operator should know of the declaration, seen beside the true number; None where it is right."""
    if not plan.private:
        return None
    least, most = plan.privacy.minimum_users, plan.privacy.user_bound
    if users > most:
        return (
            f"there are more users than privacy.user_bound = {most}, on which δ and the ring of the secure sum rest: agree on "
            "a higher bound"
        )
    if users < least and (declared is None or declared >= least):
        return (
            f"there are fewer users than privacy.minimum_users = {least}: noise would drown what they have to say. Take part "
            "as a reader with catalogue.share: none"
        )
    if declared is not None and not declared / 2 <= users <= 2 * declared:
        return f"declared_users: {declared} is no longer near the number of users; declare a rounded number again"
    return None


def tell_of_declaration(declared: int | None, users: int, plan: FederationPlan) -> None:
    """Say in the operator's log what is wrong with the declaration; the start goes on."""
    problem = declaration_problem(declared, users, plan)
    if problem is not None:
        _log.error("%s", problem)
