"""A passport's whole way, over real channels: issued, carried, redeemed, used, explained, revoked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.data.dataset import UserItemMatrix
from client.passport.books import Receipt, Redeemed
from client.passport.contents import Basis, Contents, Factor
from client.passport.desk import PassportDesk
from client.passport.spaces import shared_basis
from client.personalization.platform_model import PlatformModel
from client.personalization.store import PlatformStore
from client.recommend.recommender import Recommender
from client.service.client import RecommenderClient
from client.service.server import RecommenderServer, serve_recommender
from common.config.passport import PassportConfig
from common.deploy.provisioning import Registration
from common.errors import ContractError, DataError, PassportError
from common.privacy.secure_sum import PlatformIdentity
from simulations.engine.random_model import random_platform_model

pytestmark = pytest.mark.usefixtures("one_thread")
_USERS, _ITEMS, _GROUPS = 240, 60, 4
_NODE_KEY = "ecdsa-sha2-nistp384 AAAA"
_ON = PassportConfig(issue=True, redeem=True, contents=("factor", "tastes", "profile"), redeems_per_day=9)


def _model(name: str, seed: int) -> PlatformModel:
    """User k is of taste k mod 4 on every platform, and so is item k."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(_USERS):
        weights = np.where(np.arange(_ITEMS) % _GROUPS == user % _GROUPS, 6.0, 1.0)
        rows.append(rng.choice(_ITEMS, size=10, replace=False, p=weights / weights.sum()))
    indptr = np.arange(0, 10 * _USERS + 1, 10, dtype=np.int64)
    values = np.ones(10 * _USERS, dtype=np.float32)
    histories = UserItemMatrix(
        indptr, np.concatenate(rows).astype(np.int32), values, np.tile(np.arange(10), _USERS), _ITEMS
    )
    model = random_platform_model(rng, own=_ITEMS, users=_USERS)
    ids = tuple(f"{name}-{user}" for user in range(_USERS))
    platforms = tuple(name if platform == model.platform else platform for platform in model.platforms)
    return replace(model, platform=name, platforms=platforms, histories=histories, user_ids=ids)


@dataclass(frozen=True)
class _Place:
    desk: PassportDesk
    model: PlatformModel
    server: RecommenderServer
    client: RecommenderClient


@pytest.fixture
def world(tmp_path: Path) -> Iterator[dict[str, _Place]]:
    keys = {name: (PlatformIdentity.generate(), X25519PrivateKey.generate()) for name in ("books", "cinema", "club")}
    pinned = {
        name: Registration.make(
            name, "f", identity, sealing_key=sealing.public_key().public_bytes_raw(), node_key=_NODE_KEY
        )
        for name, (identity, sealing) in keys.items()
    }
    places = {}
    for seed, (name, (identity, sealing)) in enumerate(keys.items()):
        store, model = PlatformStore(tmp_path / name / "store"), _model(name, seed)
        store.commit(model)
        desk = PassportDesk(
            name, _ON, identity=identity, sealing_key=sealing, pinned=lambda: pinned, folder=tmp_path / name
        )
        server = serve_recommender(store.root, passports=desk)
        places[name] = _Place(desk, model, server, RecommenderClient(server.target))
    yield places
    for place in places.values():
        place.client.close()
        place.server.stop()


def _holders(world: dict[str, _Place], users: range) -> None:
    """Users of both platforms carry a passport from the cinema to the books."""
    cinema, books = world["cinema"], world["books"]
    recommender = Recommender(cinema.model)
    for user in users:
        name = f"cinema-{user}"
        passport, _ = cinema.desk.issue(cinema.model, recommender.history_of(name), name, "books")
        books.desk.redeem(passport.encoded(), f"books-{user}")


def _learned(place: _Place):  # type: ignore[no-untyped-def]
    passports = place.server.passports
    assert passports is not None
    use = passports.use(place.server.model.snapshot())
    passports.wait()
    return use


def test_newcomer_is_known_by_what_she_brought(world: dict[str, _Place]) -> None:
    cinema, books = world["cinema"].client, world["books"].client
    _holders(world, range(1, 200))
    issued = cinema.issue_passport("cinema-0", "books", account="anna")
    assert issued.receipt.platform == "books"
    assert set(issued.receipt.kinds) == {"factor", "tastes", "profile"}
    with pytest.raises(DataError):
        books.recommend("anna")
    with pytest.raises(PassportError, match="another account"):
        books.redeem_passport("ben", issued.passport)
    first = books.redeem_passport("anna", issued.text.encode())
    again = books.redeem_passport("anna", issued.passport)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert first.receipt == again.receipt

    _learned(world["books"])
    listed = books.recommend("anna", 8, "own")
    column = {key: place for place, key in enumerate(world["books"].model.own.keys)}
    assert sum(column[item.key] % _GROUPS == 0 for item in listed) >= 6
    why = books.explain("anna", listed[0].key)
    assert why.passports == ("cinema",)
    assert why.score == pytest.approx(listed[0].score, abs=1e-4)
    assert sum(part.amount for part in why.models.values()) == pytest.approx(why.score, abs=1e-4)
    assert "passport" in why.models


def test_others_items_are_ranked_by_the_factor_that_was_brought(world: dict[str, _Place]) -> None:
    _holders(world, range(1, 120))
    _learned(world["books"])
    books, model = world["books"], world["books"].model
    popular = [item.key for item in books.client.recommend_for_history([], 10, "cross")]
    lists = []
    for user in (0, 1):
        books.client.redeem_passport(
            f"new-{user}", world["cinema"].client.issue_passport(f"cinema-{user}", "books").passport
        )
        listed = books.client.recommend(f"new-{user}", 10, "cross")
        lists.append([item.key for item in listed])
        why = books.client.explain(f"new-{user}", listed[0].key)
        assert why.passports == ("cinema",)
        assert why.models["passport"].amount > 0
        assert why.score == pytest.approx(listed[0].score, abs=1e-4)
        assert sum(part.amount for part in why.models.values()) == pytest.approx(why.score, abs=1e-4)
    assert lists[0] != popular
    assert lists[0] != lists[1]
    assert model.shared.config.feedback == "implicit"


def test_factor_of_the_same_space_is_the_prior_itself(world: dict[str, _Place]) -> None:
    books = world["books"]
    use = _learned(books)
    values = np.arange(books.model.shared.item_parameters.shape[1], dtype=np.float32)
    receipt = Receipt("00" * 16, "redeemed", "anna", "cinema", ("factor",), 0, 1 << 39)
    use._learned = replace(use.learned, weights_with_popularity={"factor": 0.5})
    for basis, fits in ((shared_basis(books.model), True), (Basis("round 9", bytes(32)), False)):
        brought = use.brought([Redeemed(receipt, Contents(factor=Factor(basis, values)))])
        assert (brought is not None) == fits
        if brought is not None:
            np.testing.assert_array_equal(brought.factor, values)


def test_own_history_takes_over(world: dict[str, _Place]) -> None:
    _holders(world, range(200))
    balance = _learned(world["books"]).learned.balance
    # Own factors of this model are random, so what holders tell is that a passport outweighs ten own items.
    assert balance >= 5
    books = world["books"].client
    with_passport = books.explain("books-0", world["books"].model.own.keys[-1])
    assert with_passport.models["passport"].weight == pytest.approx(balance / (balance + 10))
    assert sum(part.amount for part in with_passport.models.values()) == pytest.approx(with_passport.score, abs=1e-4)
    without = books.explain("books-210", world["books"].model.own.keys[-1])
    assert without.passports == ()


def test_visitor_is_served_and_leaves_nothing(world: dict[str, _Place], tmp_path: Path) -> None:
    _holders(world, range(1, 200))
    _learned(world["books"])
    cinema, books = world["cinema"].client, world["books"]
    issued = cinema.issue_passport("cinema-0", "books")
    before = books.desk.books.receipts()
    listed = books.client.recommend_for_passport(issued.passport, 8, "own")
    column = {key: place for place, key in enumerate(books.model.own.keys)}
    assert sum(column[item.key] % _GROUPS == 0 for item in listed) >= 6
    assert books.desk.books.receipts() == before
    with pytest.raises(PassportError, match="for 'books', and this platform is 'club'"):
        world["club"].client.recommend_for_passport(issued.passport)
    books.client.redeem_passport("anna", issued.passport)
    with pytest.raises(PassportError, match="redeemed for an account"):
        books.client.recommend_for_passport(issued.passport)


def test_revoked_passport_is_out_of_the_bridge(world: dict[str, _Place]) -> None:
    _holders(world, range(60))
    books = world["books"]
    use = _learned(books)
    assert len(use.learned.serials) == 60
    revoked = books.desk.books.receipts("books-7")[0].serial
    books.desk.books.revoke(revoked)
    passports = books.server.passports
    assert passports is not None
    passports._look(now=True)
    passports.wait()
    assert len(use.learned.serials) == 59
    assert revoked not in use.learned.serials
    assert books.client.explain("books-7", books.model.own.keys[-1]).passports == ()


def test_split_weighs_what_was_brought_for_each_version(world: dict[str, _Place], tmp_path: Path) -> None:
    _holders(world, range(1, 120))
    books = world["books"]
    store = PlatformStore(tmp_path / "books" / "store")
    store.commit(replace(books.model, user_ids=(*books.model.user_ids[:-1], "another")))
    experiment = store.experiments.begin("split", 1, 0.5)
    books.server.model.reload()
    passports = books.server.passports
    assert passports is not None
    people = {experiment.variant(name): name for name in (f"new-{number}" for number in range(99))}
    shown = {}
    for name in people.values():
        issued = world["cinema"].client.issue_passport("cinema-0", "books", account=name)
        books.client.redeem_passport(name, issued.passport)
        shown[name] = books.server.model.snapshot_for(name)
    assert {variant for _, variant in shown.values()} == {"current", "challenger"}
    uses = {variant: passports.use(snapshot) for snapshot, variant in shown.values()}
    passports.wait()
    assert uses["current"] is not uses["challenger"]
    for user, (snapshot, variant) in shown.items():
        assert passports.use(snapshot) is uses[variant]
        why = books.client.explain(user, books.model.own.keys[0])
        assert why.passports == ("cinema",)
    serial = books.desk.books.receipts("books-7")[0].serial
    books.desk.books.revoke(serial)
    passports._look(now=True)
    passports.wait()
    assert all(serial not in use.learned.serials and use.learned.serials for use in uses.values())


def test_off_by_default_and_wrong_requests(world: dict[str, _Place], tmp_path: Path) -> None:
    books = world["books"]
    running = serve_recommender(tmp_path / "books" / "store", feedback=tmp_path / "other.log")
    with running as server, RecommenderClient(server.target) as plain:
        for ask in (lambda: plain.issue_passport("books-0", "cinema"), lambda: plain.redeem_passport("u", b"x")):
            with pytest.raises(PassportError, match="neither issues nor redeems"):
                ask()
    books.desk.config = PassportConfig()
    with pytest.raises(PassportError, match="issues none"):
        books.client.issue_passport("books-0", "cinema")
    with pytest.raises(PassportError, match="redeems none"):
        books.client.redeem_passport("books-0", b"CFPASS")
    books.desk.config = _ON
    with pytest.raises(PassportError, match="is not pinned"):
        books.client.issue_passport("books-0", "elsewhere")
    with pytest.raises(PassportError, match="knows its own user"):
        books.client.issue_passport("books-0", "books")
    with pytest.raises(DataError):
        books.client.issue_passport("nobody", "cinema")
    with pytest.raises(ContractError):
        books.client.issue_passport("", "cinema")
    for _ in range(3):
        books.client.issue_passport("books-0", "cinema")
    with pytest.raises(PassportError, match="3 were issued for this user within a day"):
        books.client.issue_passport("books-0", "cinema")


def test_under_epsilon_the_profile_travels_alone(world: dict[str, _Place]) -> None:
    cinema = world["cinema"]
    cinema.desk.config = PassportConfig(issue=True, epsilon=8.0)
    issued = cinema.client.issue_passport("cinema-0", "books")
    _, contents = world["books"].desk.open(issued.passport)
    assert contents.kinds == ("profile",)
    assert contents.profile is not None
    assert contents.profile.epsilon == 8.0
    assert np.linalg.norm(contents.profile.values) > 2.0
