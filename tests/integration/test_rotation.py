"""Credentials of a recommender that are exchanged while it serves: certificate, key, tokens. Open connections stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.personalization.store import PlatformStore
from client.service.client import RecommenderClient
from client.service.server import TlsFiles, serve_recommender
from client.service.tls import issue_recommender_tls
from client.tokens import CurrentTokens
from common.config.serving import ServingConfig
from common.errors import ConfigError
from simulations.engine.random_model import random_platform_model


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_certificate_and_tokens_change_under_an_open_connection(tmp_path: Path) -> None:
    store = PlatformStore(tmp_path / "store")
    store.commit(random_platform_model(np.random.default_rng(0)))
    ours, other = (issue_recommender_tls(tmp_path / name, ["localhost"]) for name in ("ours", "other"))
    tokens = written(tmp_path / "api.token", "first\n")
    settings = ServingConfig(port=0)

    def asking(port: int, token: str, authority: Path) -> RecommenderClient:
        return RecommenderClient(f"localhost:{port}", token=token, root_certificates=authority, retry=False)

    served = serve_recommender(
        store.root, token=CurrentTokens(tokens), tls=TlsFiles(ours.certificate, ours.key), config=settings
    )
    with served as server, asking(server.port, "first", ours.authority) as old:
        assert old.recommend("user-1", k=3)
        for mine, its in ((ours.key, other.key), (ours.certificate, other.certificate)):
            mine.write_bytes(its.read_bytes())
        written(tokens, "second\nfirst\n")
        with asking(server.port, "second", other.authority) as new:
            assert new.recommend("user-1", k=3) == old.recommend("user-1", k=3)
            written(tokens, "second\n")
            assert new.recommend("user-1", k=3)
            with pytest.raises(ConfigError, match="token"):
                old.recommend("user-1", k=3)
            # Nothing that cannot be used takes the place of what is in force, and nobody is let in by it.
            for text, mode in (("", 0o600), ("third\n", 0o644)):
                written(tokens, text, mode)
                assert new.recommend("user-1", k=3)
                with pytest.raises(ConfigError, match="token"):
                    old.recommend("user-1", k=3)
            tokens.unlink()
            assert new.recommend("user-1", k=3)


def test_tokens_that_cannot_be_used_are_refused_at_start(tmp_path: Path) -> None:
    for text, mode, why in (("\n \n", 0o600, "is empty"), ("token\n", 0o640, "open to other users")):
        with pytest.raises(ConfigError, match=why):
            CurrentTokens(written(tmp_path / "token", text, mode))
    with pytest.raises(ConfigError, match="cannot be read"):
        CurrentTokens(tmp_path / "none")
