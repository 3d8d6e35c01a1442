"""User-level privacy asks of the data that one user's presence changes nothing of another's history."""

from __future__ import annotations

from common.config.data import DataConfig
from common.errors import ConfigError


def check_users_independent(data: DataConfig, *, at: str = "data") -> None:
    """Refuse settings with which cleaning one user's history depends on others, or a catalogue on who is there.

    Args:
        data: where the data lies and how it is cleaned.
        at: key path of ``data``, for the message.

    Raises:
        ConfigError: names the settings.
    """
    dependent = data.settings_that_depend_on_other_users()
    if dependent:
        raise ConfigError(
            f"{', '.join(f'{at}.{setting}' for setting in dependent)}: one user's presence would change what is kept of "
            "others, which the privacy promise does not cover; give an items file, and no rule that counts over users"
        )
