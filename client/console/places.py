"""The pages of a platform's console."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from client.console import facts
from client.console.trying import MOST, SCOPES, Trial
from client.deploy.loading import load_platform_data
from client.personalization.store import PlatformStore
from client.privacy.card import limits_of
from common.config.loader import load_yaml_model
from common.deploy.roles import PlatformConfig
from common.errors import ContractError
from common.sealed.admin import AdminLog
from common.web.console.app import Console, Place, Redirect, Shown, Visit
from common.web.texts import LANGUAGES

PACKAGE: Final = "client.console"


class PlatformPages:
    """Makes each page from the platform's files.

    Args:
        config_path: of ``platform.yaml``; read anew for each page.
    """

    def __init__(self, config_path: Path) -> None:
        self._path = config_path
        self._report: dict[str, Any] | None = None
        self._trial = Trial()

    @property
    def config(self) -> PlatformConfig:
        return load_yaml_model(self._path, PlatformConfig)

    def overview(self, visit: Visit) -> Shown:
        """Health, the model, the budget, the newest run, feedback: at a glance."""
        config = self.config
        return _shown(
            "overview.html",
            health=facts.told(facts.health, config),
            versions=facts.told(facts.versions, config),
            budget=facts.told(facts.budget, config),
            private=config.plan.private,
            progress=facts.told(facts.progress, config),
            feedback=facts.told(facts.feedback, config),
        )

    def models(self, visit: Visit) -> Shown:
        """The versions of the platform's model."""
        config = self.config
        return _shown("models.html", versions=facts.versions(config), outcomes=facts.told(facts.outcomes, config))

    def roll_back(self, visit: Visit) -> Redirect:
        """Let another version serve, as ``crossfed-client models rollback`` does."""
        version = visit.form.get("version", "")
        if not version.isascii() or not version.isdecimal():
            raise ContractError("version: the number of one that is listed")
        config = self.config
        AdminLog(config.state).record("models rollback", version=version)
        PlatformStore(config.state / "store").serve(int(version))
        return Redirect(path="/models")

    def privacy(self, visit: Visit) -> Shown:
        """The budget, and what left message by message."""
        config, before = self.config, visit.query.get("before", "")
        if before and not before.isdecimal():
            raise ContractError("before: the number of an entry")
        entries, more = facts.messages(config, int(before) if before else None)
        return _shown(
            "privacy.html",
            budget=facts.budget(config),
            entries=entries,
            more=more,
            private=config.plan.private,
            limits={language: limits_of(config.plan, language) for language in LANGUAGES},
        )

    def data(self, visit: Visit) -> Shown:
        """Return what cleaning dropped, once the data have been read."""
        return _shown("data.html", report=self._report, source=self.config.data.interactions.path.name)

    def read_data(self, visit: Visit) -> Redirect:
        """Read and clean the data now."""
        report = load_platform_data(self.config).report.as_dict()
        self._report = report | {"source": Path(report["source"]).name}
        return Redirect(path="/data")

    def trying(self, visit: Visit) -> Shown:
        """The form that asks for a user."""
        return _shown("try.html", answer=None, k="10", scope="all", scopes=SCOPES, most=MOST)

    def try_user(self, visit: Visit) -> Shown:
        """A user's list with its reasons. The id is not shown again: a page may stay open, or be printed."""
        k, scope = visit.form.get("k", "10"), visit.form.get("scope", "all")
        answer = self._trial.ask(self.config, visit.form.get("user", ""), k, scope)
        return _shown("try.html", answer=answer, k=k, scope=scope, scopes=SCOPES, most=MOST)


def platform_console(config_path: Path, port: int, token: str | None = None) -> Console:
    """The console of a platform.

    Args:
        config_path: of ``platform.yaml``.
        port: at which it is served.
        token: what whoever enters must know; a new one unless given.
    """
    pages = PlatformPages(config_path)
    places = [
        Place(path="/", label="p_overview", view=pages.overview),
        Place(path="/models", label="p_models", view=pages.models, action=pages.roll_back),
        Place(path="/privacy", label="p_privacy", view=pages.privacy),
        Place(path="/data", label="p_data", view=pages.data, action=pages.read_data),
        Place(path="/try", label="p_try", view=pages.trying, action=pages.try_user),
    ]
    return Console(PACKAGE, pages.config.name, places, port=port, token=token)


def _shown(template: str, **content: Any) -> Shown:
    return Shown(template=template, content=content)
