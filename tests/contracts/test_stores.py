"""All that a platform and an aggregator keep on disk, each held to what every store must keep to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.batch.outputs import LISTS_FILE, ListOutputs
from client.contributions.run_file import VOCABULARY_FILE, RunFile
from client.data.reading.exclusions import EXCLUSIONS_FILE, ExclusionBook
from client.passport.books import PASSPORTS_FILE, PassportBooks
from client.passport.contents import Contents, Tastes
from client.passport.envelope import Passport, issue
from client.personalization.store import PlatformStore
from client.privacy.journal import JOURNAL_FILE, EgressJournal, pack
from client.privacy.ledger import LEDGER_FILE, BudgetLedger
from client.recommend.feedback import FeedbackLog
from client.steering.hidden import HIDDEN_FILE, HiddenItems
from client.versions.experiment import ExperimentFile
from common.contributions.run_plan import read_plan
from common.privacy.contribution import Release
from common.privacy.lifetime import BudgetPolicy
from common.privacy.secure_sum import PlatformIdentity
from common.sealed.admin import ADMIN_LOG, AdminLog
from server.federation.checkpoint import CheckpointStore
from server.federation.state import fresh_state
from tests.contracts.store_contract import Keeper, StoreContract
from tests.support.stores import model_of

PLAN = read_plan({"privacy": {"mode": "none"}, "model": {"dimension": 2}})
NOW = 1_800_000_000.0
TASTES = Contents(tastes=Tastes((("genre:drama", 1.0),)))
RELEASE = Release(kind="item_vectors", mechanism="gaussian", noise_multiplier=9.0)


class Models(Keeper):
    def write(self, number: int) -> None:
        PlatformStore(self.folder).commit(model_of(number))

    def read(self) -> Any:
        store = PlatformStore(self.folder)
        return [store.load(version).local.item_parameters.tolist() for version in store.versions()[-1:]]

    @property
    def file(self) -> Path:
        return self.folder / "versions" / f"{PlatformStore(self.folder).current():06d}" / "arrays.npz"


class Checkpoints(Keeper):
    def write(self, number: int) -> None:
        state = replace(fresh_state("run", PLAN.row), server_round=number, value_mean=float(number))
        CheckpointStore(self.folder).save(state, PLAN)

    def read(self) -> Any:
        state = CheckpointStore(self.folder).latest(PLAN)
        return None if state is None else (state.run_id, state.server_round, state.value_mean)

    @property
    def file(self) -> Path:
        return max(self.folder.glob("round-*.npz"))


class RunFiles(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / VOCABULARY_FILE

    def write(self, number: int) -> None:
        RunFile(self.file).save("run", PLAN, {"number": number}, {"a": np.full(40, number)})

    def read(self) -> Any:
        kept = RunFile(self.file).newest(PLAN)
        return None if kept is None else (kept[1], kept[2]["a"].tolist())


class Feedback(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / "feedback.log"

    def write(self, number: int) -> None:
        with FeedbackLog(self.file) as log:
            log.record(f"event-{number}", "anna", f"imdb:{number}", 1.0, 1_700_000_000)

    def read(self) -> Any:
        with FeedbackLog(self.file) as log:
            return [event.item_key for event in log.events_of("anna")]


class Exclusions(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / EXCLUSIONS_FILE

    def write(self, number: int) -> None:
        book = ExclusionBook(self.folder)
        book.add({book.tag(f"person-{number}"): "erased"})

    def read(self) -> Any:
        left_out = ExclusionBook(self.folder).current()
        return [name for name in ("person-0", "person-1", "person-2") if name in left_out]


class Hidden(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / HIDDEN_FILE

    def write(self, number: int) -> None:
        HiddenItems(self.folder).hide([f"imdb:{number}"])

    def read(self) -> Any:
        return sorted(HiddenItems(self.folder).current())


class Experiments(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / "experiment.json"

    def write(self, number: int) -> None:
        book = ExperimentFile(self.folder)
        if number:
            book.end()
        else:
            book.begin("split", 2, 0.5)

    def read(self) -> Any:
        found = ExperimentFile(self.folder).current()
        return None if found is None else (found.kind, found.version, found.share)


class Ledger(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / LEDGER_FILE

    def write(self, number: int) -> None:
        ledger = BudgetLedger.open(self.folder, BudgetPolicy(epsilon=9.0, delta=1e-5))
        ledger.reserve(f"run-{number}", [RELEASE], epsilon=3.0, delta=1e-5)
        ledger.charge(f"run-{number}", 1, [RELEASE], f"{number:064x}")

    def read(self) -> Any:
        if not self.folder.exists():
            return None
        return [entry.content["event"] for entry in BudgetLedger.open(self.folder).entries()]


class Journal(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / JOURNAL_FILE

    def write(self, number: int) -> None:
        Ledger(self.folder).write(number)
        ledger = BudgetLedger.open(self.folder)
        receipt = ledger.charge(f"run-{number}", 1, [RELEASE], f"{number:064x}")
        content = pack({"a": np.full(3, number)})
        EgressJournal(self.folder, ledger).record_contribution(receipt, content, {"kind": "counts", "round": 1})

    def read(self) -> Any:
        if not self.folder.exists():
            return None
        entries = EgressJournal(self.folder, BudgetLedger.open(self.folder)).entries()
        return [entry.content["digest"] for entry in entries if entry.content["event"] == "sent"]


class Lists(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / LISTS_FILE

    def write(self, number: int) -> None:
        path = self.folder.parent / f"{self.folder.name}-{number}.parquet"
        ListOutputs(self.folder).note(path)
        pl.DataFrame({"user_id": ["anna"], "item_key": [str(number)]}).write_parquet(path)

    def read(self) -> Any:
        return [one["rows"] for one in ListOutputs(self.folder).rows_of("anna")]


class AdminActs(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / ADMIN_LOG

    def write(self, number: int) -> None:
        AdminLog(self.folder).record("admit", platform=f"platform-{number}")

    def read(self) -> Any:
        return [dict(one.details) for one in AdminLog(self.folder).acts()]


class Passports(Keeper):
    @property
    def file(self) -> Path:
        return self.folder / PASSPORTS_FILE

    def write(self, number: int) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        books = PassportBooks(self.folder, clock=lambda: NOW)
        books.record_redeem(passport(f"platform-{number}"), "anna", TASTES, per_day=9)
        books.close()

    def read(self) -> Any:
        if not self.folder.exists():
            return None
        books = PassportBooks(self.folder, clock=lambda: NOW)
        try:
            return [(one.receipt.platform, one.contents.kinds) for one in books.redeemed("anna")]
        finally:
            books.close()


def passport(issuer: str) -> Passport:
    key = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return issue(
        TASTES,
        issuer=issuer,
        identity=PlatformIdentity.generate(),
        receiver="here",
        receiver_key=key,
        not_before=int(NOW),
        expires=int(NOW) + 86_400,
    )


class TestModels(StoreContract):
    keeper = Models


class TestCheckpoints(StoreContract):
    keeper = Checkpoints


class TestRunFiles(StoreContract):
    keeper = RunFiles
    begins_anew = True


class TestFeedback(StoreContract):
    keeper = Feedback
    begins_anew = True


class TestExclusions(StoreContract):
    keeper = Exclusions


class TestHiddenItems(StoreContract):
    keeper = Hidden


class TestExperiments(StoreContract):
    keeper = Experiments
    begins_anew = True


class TestLedger(StoreContract):
    keeper = Ledger
    by_sqlite = True


class TestJournal(StoreContract):
    keeper = Journal
    by_sqlite = True


class TestLists(StoreContract):
    keeper = Lists


class TestAdminActs(StoreContract):
    keeper = AdminActs
    by_sqlite = True


class TestPassports(StoreContract):
    keeper = Passports
    by_sqlite = True
