"""The Flower app that platforms' SuperNodes get: code only, copied from the installed package.

A wheel has no ``pyproject.toml``, and Flower bundles whatever lies in the app's folder. So the app is staged in a folder
that holds nothing else.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from common.deploy.app_bundle import PYPROJECT, app_files
from common.errors import ConfigError
from common.files import make_folder


def stage_app(folder: Path) -> Path:
    """Copy the app's code into ``folder`` (replaced if it is there) and return it.

    Raises:
        ConfigError: the package is not installed as files, or something else lies in ``folder``.
    """
    if folder.exists() and not _is_staged(folder):
        raise ConfigError(f"{folder}: holds what crossfed has not put there; move it away, or set another state folder")
    files = app_files()
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    # First, so that a copy which is cut short is known as one.
    for path in (PYPROJECT, *sorted(files.keys() - {PYPROJECT})):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[path])
    return folder


def _is_staged(folder: Path) -> bool:
    """Whether an earlier call made it, or nothing is in it."""
    try:
        return 'publisher = "crossfed"' in (folder / PYPROJECT).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return not any(folder.iterdir())
    except OSError:
        return False
