"""The Flower app that the aggregator ships: which of the installed files are in it.

The platform has the same package installed, so it knows the bundle before it comes.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from common.deploy.app_digest import app_digest
from common.errors import ConfigError

# The courier is all of client/ that may be shipped: a platform's own side is installed by the platform.
_COURIER: Final = ("__init__.py", "app.py", "remote.py")
PYPROJECT: Final = "pyproject.toml"
# Laid out as Flower writes it anew when it builds a bundle, so that it goes through as it is.
_PYPROJECT_TEXT: Final = """\
[build-system]
requires = [
    "hatchling",
]
build-backend = "hatchling.build"

[project]
name = "crossfed"
version = "{version}"
description = "Recommendations across platforms whose users' data may not leave home."
license = "Apache-2.0"
dependencies = [
    "flwr",
]

[tool.hatch.build.targets.wheel]
packages = [
    "client",
    "common",
    "server",
]

[tool.flwr.app]
publisher = "crossfed"
fab-include = [
    "client/**/*.py",
    "common/**/*.py",
    "server/**/*.py",
]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
run-name = ""
"""


def app_files() -> dict[str, bytes]:
    """Contents by path of the app of the installed package: the ServerApp, the courier, and what both import.

    Raises:
        ConfigError: the package is not installed as files.
    """
    files = {PYPROJECT: _PYPROJECT_TEXT.format(version=version("crossfed")).encode()}
    for package in ("common", "server"):
        source = _package_folder(package)
        files |= {
            f"{package}/{path.relative_to(source).as_posix()}": path.read_bytes() for path in source.rglob("*.py")
        }
    client = _package_folder("client")
    return files | {f"client/{name}": (client / name).read_bytes() for name in _COURIER}


def installed_app_digest() -> str:
    """The digest of the app of the installed package."""
    return app_digest(app_files())


def _package_folder(name: str) -> Path:
    # Found without importing it: the aggregator has no business with the client's code but to pass it on.
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the package {name!r} is not installed; install crossfed again")
    return Path(spec.origin).parent
