"""Makes what is put into a passport, from a user's own history on the issuing platform."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from client.passport.basis import ProfileBasis
from client.passport.contents import Basis, Contents, Factor, Profile
from client.passport.noise import noised
from client.passport.spaces import AttributeSpace, TextSpace, shared_basis, shared_fold_in, shared_rows
from client.personalization.platform_model import PlatformModel
from client.recommend.recommender import History
from client.scoring.fold_in import FoldIn
from common.config.passport import PassportConfig
from common.errors import PassportError


class ContentsMaker:
    """For one version of a platform's model; what does not depend on the user is worked out once.

    Args:
        model: that knows the catalogue.
        basis: of profiles; None: they are not put in.
        texts: what is written about the catalogue; None: nothing of it is put in.
    """

    def __init__(self, model: PlatformModel, basis: ProfileBasis | None, texts: TextSpace | None = None) -> None:
        self.model, self._profiles, self._texts = model, basis, texts

    def make(self, history: History, config: PassportConfig, account: bytes | None) -> Contents:
        """Everything that the configuration wants and the history gives.

        Raises:
            PassportError: nothing can be made.
        """
        if config.epsilon is not None:
            # The other contents carry no noise: beside them that of the profile would protect nothing.
            profile = self._profile(history)
            if profile is None:
                raise _nothing()
            values = noised(profile.values, config.epsilon)
            return Contents(account, profile=Profile(profile.basis, values, config.epsilon))
        contents = Contents(
            account,
            factor=self._factor(history) if "factor" in config.contents else None,
            tastes=self._attributes.tastes(history.columns) if "tastes" in config.contents else None,
            profile=self._profile(history) if "profile" in config.contents else None,
            texts=self._texts.texts(history.columns)
            if "texts" in config.contents and self._texts is not None
            else None,
        )
        if not contents.kinds:
            raise _nothing()
        return contents

    @cached_property
    def _attributes(self) -> AttributeSpace:
        return AttributeSpace(self.model.own)

    @cached_property
    def _shared(self) -> tuple[FoldIn, NDArray[np.int32], Basis]:
        return shared_fold_in(self.model), shared_rows(self.model), shared_basis(self.model)

    def _factor(self, history: History) -> Factor | None:
        fold_in, rows, basis = self._shared
        mine = rows[history.columns]
        known = mine >= 0
        if self.model.shared.config.feedback != "implicit" or not known.any():
            return None
        values = fold_in.user(mine[known], history.values[known])
        return Factor(basis, values) if values.any() else None

    def _profile(self, history: History) -> Profile | None:
        if self._profiles is None:
            return None
        values = self._profiles.profile([self.model.own.keys[column] for column in history.columns])
        return None if values is None else Profile(self._profiles.basis, values)


def _nothing() -> PassportError:
    return PassportError("passport: nothing to put in: too little is known of this user's history")
