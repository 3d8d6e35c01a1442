"""Where a platform issues passports to its users and redeems those of other platforms: configuration, keys, receipts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.data.dataset import ItemDescriptions
from client.data.reading.exclusions import ExclusionBook
from client.keys import KeyFolder
from client.passport.basis import ProfileBasis
from client.passport.books import PassportBooks, Receipt, Redeemed
from client.passport.contents import Contents
from client.passport.envelope import Passport, account_binding, issue, read_passport, unseal
from client.passport.making import ContentsMaker
from client.passport.spaces import TextSpace, text_space
from client.personalization.platform_model import PlatformModel
from client.recommend.recommender import History
from client.text.cache import CACHE_FOLDER, VectorCache
from client.text.registry import load_encoder
from client.text.vectors import text_vectors
from common.config.passport import PassportConfig
from common.config.text import TextConfig
from common.deploy.provisioning import Pins, Registration
from common.deploy.roles import PlatformConfig
from common.errors import PassportError
from common.privacy.secure_sum import PlatformIdentity

_DAY = 86_400


class PassportDesk:
    """One platform's. Safe for threads.

    Args:
        name: of the platform.
        config: whether and what it issues and redeems.
        identity: signs.
        sealing_key: opens.
        pinned: the other platforms' registrations, asked each time.
        folder: the platform's private folder.
        clock: seconds since 1970.
        exclusions: for whom nothing is issued or redeemed, or None.
        texts: a catalogue's texts as vectors; None: there are none.
        keep_days: for how long this platform keeps data of persons, what they bring included; None: without limit.
    """

    def __init__(
        self,
        name: str,
        config: PassportConfig,
        *,
        identity: PlatformIdentity,
        sealing_key: X25519PrivateKey,
        pinned: Callable[[], Mapping[str, Registration]],
        folder: Path,
        clock: Callable[[], float] = time.time,
        exclusions: ExclusionBook | None = None,
        texts: Callable[[ItemDescriptions], TextSpace | None] | None = None,
        keep_days: int | None = None,
    ) -> None:
        self.name, self.config, self.texts = name, config, texts
        self._keep_days = keep_days
        self._exclusions = exclusions
        self.books = PassportBooks(folder, clock=clock)
        self._identity, self._sealing_key, self._pinned = identity, sealing_key, pinned
        self._folder, self._clock = folder, clock
        self._maker: ContentsMaker | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, config: PlatformConfig) -> PassportDesk:
        """As ``platform.yaml`` says.

        Raises:
            ConfigError: a key is missing.
            SecureSumError: the identity is.
        """
        keys = KeyFolder(config.keys)
        return cls(
            config.name,
            config.passport,
            identity=keys.identity(),
            sealing_key=keys.sealing_key(),
            pinned=Pins(config.pins).all,
            folder=config.state,
            exclusions=ExclusionBook(config.state / "store"),
            texts=None if config.plan.text is None else partial(_text_space, config.plan.text, config),
            keep_days=config.data.retention_days,
        )

    def issue(
        self, model: PlatformModel, history: History, user: str, receiver: str, account: str | None = None
    ) -> tuple[Passport, Receipt]:
        """A passport for ``user`` to carry to ``receiver``; its receipt is on disk.

        Args:
            model: that knows the catalogue.
            history: the user's.
            user: an id of this platform.
            receiver: a pinned platform.
            account: the user's account there; None: the first for which it is redeemed.

        Raises:
            PassportError: this platform issues none, the receiver is not pinned, there is nothing to put in, or the user
                had as many today as there may be.
            StoreError: the receipt cannot be written.
        """
        if not self.config.issue:
            raise PassportError("passport: this platform issues none; passport.issue of platform.yaml turns it on")
        self._check_not_left_out(user)
        if receiver == self.name:
            raise PassportError(f"passport: {receiver!r} is this platform, which knows its own user; name another one")
        registration = self._pinned().get(receiver)
        if registration is None:
            raise PassportError(f"passport: {receiver!r} is not pinned here; run crossfed-client pin first")
        binding = None if account is None else account_binding(receiver, account)
        contents = self._maker_for(model).make(history, self.config, binding)
        now = int(self._clock())
        passport = issue(
            contents,
            issuer=self.name,
            identity=self._identity,
            receiver=receiver,
            receiver_key=bytes.fromhex(registration.sealing_key),
            not_before=now,
            expires=now + self.config.valid_days * _DAY,
        )
        receipt = self.books.record_issue(passport, user, contents.kinds, per_day=self.config.issues_per_day)
        return passport, receipt

    def open(self, data: bytes) -> tuple[Passport, Contents]:
        """Check a passport and open it; nothing is kept.

        Raises:
            PassportError: this platform redeems none, or not this one.
        """
        if not self.config.redeem:
            raise PassportError("passport: this platform redeems none; passport.redeem of platform.yaml turns it on")
        passport = read_passport(data)
        issuer = self._pinned().get(passport.head.issuer)
        key = None if issuer is None else bytes.fromhex(issuer.identity)
        return passport, unseal(
            passport, platform=self.name, sealing_key=self._sealing_key, issuer_key=key, now=self._clock()
        )

    def open_for_visitor(self, data: bytes) -> Redeemed:
        """Open a passport for a person without an account here; nothing is kept.

        Raises:
            PassportError: not for this platform, made out to an account, or redeemed for one.
        """
        passport, contents = self.open(data)
        if contents.account is not None:
            raise PassportError("passport: was made out to an account of this platform; redeem it there")
        self.books.check_usable(passport)
        head, now = passport.head, int(self._clock())
        return Redeemed(
            Receipt(passport.serial, "redeemed", "", head.issuer, contents.kinds, now, head.expires), contents
        )

    def redeem(self, data: bytes, user: str) -> tuple[Redeemed, bool]:
        """Redeem a passport for an account of this platform; and whether it had been redeemed for it before.

        Raises:
            PassportError: this platform redeems none, or not this one, or not for this account.
            StoreError: it cannot be written, and is not redeemed.
        """
        self._check_not_left_out(user)
        passport, contents = self.open(data)
        receipt, before = self.books.record_redeem(
            passport, user, contents, per_day=self.config.redeems_per_day, keep_days=self._keep_days
        )
        return Redeemed(receipt, contents), before

    def _check_not_left_out(self, user: str) -> None:
        if self._exclusions is not None and user in self._exclusions.current():
            raise PassportError("passport: this person was erased from this platform, or has objected")

    def _maker_for(self, model: PlatformModel) -> ContentsMaker:
        with self._lock:
            if self._maker is None or self._maker.model is not model:
                texts = self.texts(model.own) if self.texts is not None and "texts" in self.config.contents else None
                self._maker = ContentsMaker(model, self._profile_basis(model), texts)
            return self._maker

    def _profile_basis(self, model: PlatformModel) -> ProfileBasis | None:
        """This platform's own, made at the first passport and kept; None where profiles are not put in."""
        if "profile" not in self.config.contents and self.config.epsilon is None:
            return None
        basis = ProfileBasis.load(self._folder)
        if basis is None:
            name = f"{self.name}/1"
            basis = ProfileBasis.fit(model.histories, model.own.keys, name, dimension=self.config.dimension)
            basis.save(self._folder)
        return basis


def _text_space(plan: TextConfig, config: PlatformConfig, items: ItemDescriptions) -> TextSpace | None:
    texts = text_vectors(load_encoder(plan, config.text), VectorCache(config.state / CACHE_FOLDER / "texts.db"))
    return None if texts is None else text_space(plan, texts, items)
