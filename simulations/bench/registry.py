"""``crossfed-simulate bench``: the figures by name, each measured side by side with what it is compared to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from common.errors import ConfigError
from common.files import make_folder, write_atomically


@dataclass(frozen=True)
class Entry:
    """One bench: ``module:function`` under ``simulations.bench``, what it shows, and whether it needs research data."""

    target: str
    shows: str
    needs: Literal["nothing", "folder", "ml1m"] = "nothing"

    def run(self, data: Path | None) -> Any:
        module, name = self.target.split(":")
        function: Callable[..., Any] = getattr(import_module(f"simulations.bench.{module}"), name)
        if self.needs == "nothing" or data is None:
            return function()
        return function(import_module("simulations.bench.als").load_ml1m(data) if self.needs == "ml1m" else data)


ENTRIES: dict[str, Entry] = {
    "pooled": Entry("federation:equals_pooled", "federated factors against pooled ones, relative difference"),
    "overhead": Entry("federation:overhead", "inline federation of 4 platforms over pooled training, time", "folder"),
    "many-platforms": Entry("federation:many_platforms", "1,000 platforms: seconds a round, peak memory"),
    "als-iteration": Entry(
        "als:iteration_against_implicit", "an ALS iteration against implicit, time and objective", "ml1m"
    ),
    "strong": Entry("als:strong_generalisation_quality", "ML-1M strong generalisation, against implicit", "ml1m"),
    "leave-one-out": Entry("als:leave_one_out_quality", "ML-1M leave-one-out, 99 negatives, HR@10, NDCG@10", "ml1m"),
    "large": Entry("large:large_synthetic", "20 M interactions on one platform, memory and time against implicit"),
    "scale": Entry(
        "scale.curve:bench_scale", "1 and 10 M interactions on a Ray cluster of two workers: seconds, memory"
    ),
    "gpu": Entry("gpu:bench_gpu", "an ALS iteration on an NVIDIA GPU against this machine's CPU, where there is one"),
    "privacy": Entry("privacy.dp_quality:quality_by_epsilon", "ML-1M strong generalisation under privacy", "folder"),
    "quickstart": Entry("cross:bench_quickstart", "quickstart: cross-platform Recall@20 over popularity, five seeds"),
    "movies": Entry("cross:bench_movies", "movies: cross-platform Recall@20 and gap closed, five seeds", "folder"),
    "never-worse": Entry(
        "cross:bench_never_worse", "final against local, own items, all scenarios, five seeds", "folder"
    ),
    "model-auto": Entry(
        "settings.choice:bench_choice",
        "model: auto against models chosen by hand, shared factors on own items",
        "folder",
    ),
    "small-platform": Entry(
        "privacy.private_gain:bench_small_platform",
        "121 users beside large platforms, HR@10 at ε = 3, 10 against local",
        "folder",
    ),
    "movies-private": Entry(
        "privacy.private_gain:bench_movies_private",
        "movies: cross-platform Recall@20 against popularity at the same ε",
        "folder",
    ),
    "over-popularity": Entry(
        "privacy.over_popularity:bench_over_popularity",
        "hospitals, courses: served over popularity, others' items, five draws, without privacy and at ε = 3",
        "folder",
    ),
    "records-books": Entry(
        "passport:bench_bridge", "passports between records and books: cold users' Recall@20 over popularity", "folder"
    ),
    "passport-attack": Entry(
        "passport:bench_attack", "items of a history guessed from its profile, by d and ε", "folder"
    ),
    "passport-latency": Entry(
        "passport_serving:bench_passports", "passports issued, redeemed and used at 100 requests a second: p50, p99"
    ),
    "passport-epsilon": Entry("passport:bench_epsilon", "what ε in every passport costs cold users", "folder"),
    "privacy-product": Entry(
        "privacy.private_gain:bench_privacy_product",
        "ML-1M strong generalisation under secure sum, six silos, genres and years",
        "folder",
    ),
    "serving-latency": Entry("serving:bench_latency", "Recommend at 300 requests a second: p50, p99; highest rate"),
    "serving-feedback": Entry("serving:bench_feedback", "feedback acknowledged, reflected in the next call"),
    "serving-swap": Entry("serving:bench_swap", "hot swaps under load: failed requests"),
    "serving-http": Entry("served.http:bench_http", "HTTP beside gRPC at 300 requests a second: p50 and p99, ratio"),
    "batch": Entry(
        "served.batch:bench_batch", "lists for everybody, to a file, beside implicit's batch recommend: users a second"
    ),
    "batch-memory": Entry("served.batch:bench_batch_memory", "lists for everybody: memory beyond the model"),
    "recency": Entry(
        "served.recency:bench_recency",
        "users folded in by their latest items, chosen on validation: HR@10, NDCG@10 of the last item, with and without",
        "folder",
    ),
    "serving-implicit": Entry("serving:bench_implicit", "one user's list against implicit in process"),
    "sequence": Entry(
        "sequence:bench_sequence", "ML-1M leave-last-out, full ranking: a Transformer, pooled and federated", "folder"
    ),
    "sequence-home": Entry(
        "sequence:bench_sequence_at_home",
        "what one of four platforms trains at home, beside what ε buys them",
        "folder",
    ),
    "sequence-private": Entry("sequence:bench_private_sequence", "the same under privacy, ε = 10 and 3", "folder"),
    "last-items-private": Entry(
        "privacy.private_gain:bench_last_items_private",
        "factors under privacy where sequence-private measures",
        "folder",
    ),
    "cold-items": Entry("transfer:cold_items", "items nobody knows, from their content: Recall@20", "folder"),
    "texts": Entry("text.encoders:bench_text", "text encoders: rate, cache, languages, unseen items", "folder"),
    "late-platform": Entry(
        "transfer:late_platform", "100 users join a trained federation: HR@10 against alone", "folder"
    ),
    "training-step": Entry(
        "transfer:step_time", "a step of the deep model, plain and private, against Keras' fit", "folder"
    ),
    "mixed-lists": Entry("mixed:bench_mixed", "own and foreign items in one list: quality, foreign share"),
    "deployed-rounds": Entry("deployed:bench_rounds", "4 platforms as real processes: seconds a round"),
    "secure-sum": Entry("privacy.secure_sum:bench_secure_sum", "10 platforms × 1 M values: error, bytes, time"),
}


def run_entries(
    names: Sequence[str], data: Path | None, folder: Path, on_start: Callable[[str], None]
) -> dict[str, Any]:
    """Run entries by name, all unless named; one JSON file each in ``folder``.

    Raises:
        ConfigError: there is no such entry, or one needs the data folder.
    """
    unknown = sorted(set(names) - ENTRIES.keys())
    if unknown:
        raise ConfigError(f"no bench {unknown[0]!r}; there are {', '.join(ENTRIES)}")
    make_folder(folder)
    results: dict[str, Any] = {}
    for name in names or ENTRIES:
        entry = ENTRIES[name]
        if entry.needs != "nothing" and data is None:
            if names:
                raise ConfigError(f"bench {name} needs the research data: give --data DIR, or set CROSSFED_DATA")
            continue
        on_start(f"{name}: {entry.shows}")
        started = time.perf_counter()
        figures = entry.run(data)
        results[name] = {"shows": entry.shows, "figures": figures, "seconds": time.perf_counter() - started}
        write_atomically(folder / f"{name}.json", json.dumps(results[name], indent=1).encode(), mode=0o644)
    return results
