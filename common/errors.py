"""Every error crossfed raises on purpose, in one tree.

    CrossfedError
    ├── ConfigError            a YAML file, an option or a --set override is wrong
    │   └── PlanMismatchError     … or the plan of a run is not the one that a platform agreed to
    ├── DataError              an input file cannot be used as it is
    │   └── EmptyDataError        … as cleaning leaves nothing of it
    ├── CatalogueError         item keys, digests, cards or the vocabulary do not fit
    │   └── SecretMismatchError   two platforms made their digests with different secrets
    ├── ContractError          an array or request that the contract does not declare
    │   ├── OrderError            … or a request that is not in order: its run, round or phase is another
    │   └── EgressRefusedError    … and that was about to leave the platform
    ├── PrivacyError           a privacy parameter or request that cannot be honoured
    │   ├── BudgetExceededError   the ledger refuses: the budget would be exceeded
    │   └── LedgerError           the ledger file is damaged, tampered with or missing
    ├── SecureSumError         a step of the secure sum that must not go on
    ├── PassportError          a passport that is none, is not for this platform, or may not be issued or redeemed
    ├── StoreError             a model store that cannot be read or written
    │   └── NewerStoreError       … because a newer crossfed wrote it
    ├── InUseError             another process works in a folder already
    ├── FederationError        a round that cannot be run: quorum, deadline, vocabulary
    ├── PlatformError          a platform answered with an error; carries its code only
    ├── TrainingError          local training broke down; the model is what it was
    └── InternalError          a defect of crossfed itself, met at the wire's edge
        └── FailedContributionError  … after a contribution was charged, whatever the cause

Each class has a ``code``: a short constant string, the only part of an error that may cross the wire. Messages name the
file, line or field at fault and the way to mend it; they never hold user ids, interactions or secrets.
"""

from __future__ import annotations

from typing import ClassVar


class CrossfedError(Exception):
    """Base of every deliberate crossfed error."""

    code: ClassVar[str] = "error"


class ConfigError(CrossfedError):
    """A configuration value is wrong; the message names file and key path."""

    code = "config"


class PlanMismatchError(ConfigError):
    """The aggregator's plan is not the one that this platform agreed to."""

    code = "plan-differs"


class DataError(CrossfedError):
    """An input file cannot be used; the message names file, line or column."""

    code = "data"


class EmptyDataError(DataError):
    """Cleaning leaves nothing of an input file; the message says which rule dropped how much."""


class CatalogueError(CrossfedError):
    """Item keys, digests, cards or the vocabulary do not fit together."""

    code = "catalogue"


class SecretMismatchError(CatalogueError):
    """Platforms made their item digests with different federation secrets."""

    code = "secret-mismatch"


class ContractError(CrossfedError):
    """A request or an array is not what the contract declares."""

    code = "contract"


class OrderError(ContractError):
    """A request whose run, round or phase is not the one that comes next; nothing was charged."""

    code = "out-of-order"


class EgressRefusedError(ContractError):
    """The egress guard refused to let something leave the platform."""

    code = "egress-refused"


class PrivacyError(CrossfedError):
    """A privacy parameter or request cannot be honoured."""

    code = "privacy"


class BudgetExceededError(PrivacyError):
    """The privacy budget would be exceeded; nothing was released."""

    code = "budget-exceeded"


class LedgerError(PrivacyError):
    """The budget ledger is damaged, tampered with, rolled back or missing."""

    code = "ledger"


class SecureSumError(CrossfedError):
    """A step of the secure sum was refused because going on could reveal a part."""

    code = "secure-sum"


class PassportError(CrossfedError):
    """A passport is none, is not for this platform or account, or may not be issued or redeemed."""

    code = "passport"


class StoreError(CrossfedError):
    """A model store or checkpoint cannot be read or written."""

    code = "store"


class NewerStoreError(StoreError):
    """The store was written by a newer crossfed; upgrade to read it."""

    code = "store-newer"


class InUseError(CrossfedError):
    """Another process works in this folder; the message says which."""

    code = "in-use"


class FederationError(CrossfedError):
    """A server round cannot be run: quorum, deadline or vocabulary."""

    code = "federation"


class PlatformError(CrossfedError):
    """A platform answered with an error. Only its code crossed the wire."""

    code = "platform"


class TrainingError(CrossfedError):
    """Local training broke down, for instance a loss that is not a number; the model is what it was before."""

    code = "training"


class InternalError(CrossfedError):
    """Something failed that crossfed did not foresee; the text stays in the platform's own log."""

    code = "internal"


class FailedContributionError(InternalError):
    """A contribution that was charged could not be made. Its code says no more than that: the cause may lie in the data."""


def told_of(error: BaseException) -> str:
    """Return what a log or a message may say of any error: the words of crossfed's own, of others the kind alone.

    >>> told_of(ConfigError("plan.rounds: at least 1")), told_of(KeyError("anna"))
    ('plan.rounds: at least 1', 'KeyError')
    """
    return str(error) if isinstance(error, CrossfedError) else type(error).__name__
