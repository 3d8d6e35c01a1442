"""What is put into a passport, from a user's own history on the issuing platform."""

from __future__ import annotations

from dataclasses import replace

from client.passport.basis import ProfileBasis
from client.passport.contents import Contents, Factor, Profile
from client.passport.noise import noised
from client.passport.shared import shared_basis, shared_fold_in, shared_rows
from client.passport.tastes import AttributeSpace
from client.personalization.platform_model import PlatformModel
from client.recommend.recommender import History
from common.config.passport import PassportConfig
from common.errors import PassportError


def make_contents(
    model: PlatformModel, basis: ProfileBasis | None, history: History, config: PassportConfig, account: bytes | None
) -> Contents:
    """Everything that the configuration wants and the history gives.

    Raises:
        PassportError: nothing can be made.
    """
    if basis is not None and config.epsilon is not None:
        # Factor and tastes carry no noise: beside them that of the profile would protect nothing.
        profile = _profile(model, basis, history)
        if profile is None:
            raise _nothing()
        values = noised(profile.values, config.epsilon)
        return Contents(account, profile=Profile(profile.basis, values, config.epsilon))
    contents = Contents(account)
    if "factor" in config.contents:
        contents = replace(contents, factor=_factor(model, history))
    if "tastes" in config.contents:
        contents = replace(contents, tastes=AttributeSpace(model.own).tastes(history.columns))
    if "profile" in config.contents and basis is not None:
        contents = replace(contents, profile=_profile(model, basis, history))
    if not contents.kinds:
        raise _nothing()
    return contents


def _factor(model: PlatformModel, history: History) -> Factor | None:
    rows = shared_rows(model)[history.columns]
    known = rows >= 0
    if model.shared.config.feedback != "implicit" or not known.any():
        return None
    values = shared_fold_in(model).user(rows[known], history.values[known])
    return Factor(shared_basis(model), values) if values.any() else None


def _profile(model: PlatformModel, basis: ProfileBasis, history: History) -> Profile | None:
    values = basis.profile([model.own.keys[column] for column in history.columns])
    return None if values is None else Profile(basis.basis, values)


def _nothing() -> PassportError:
    return PassportError("passport: nothing to put in: too little is known of this user's history")
