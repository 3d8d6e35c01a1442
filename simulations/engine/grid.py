"""The inline backend: a Flower ``Grid`` in this process, which runs each message's ClientApp when its answer is pulled.

The same ServerApp and ClientApp code that is deployed runs here at a few milliseconds a round. Flower has no public way
to make messages outside its own processes, hence the two private names below, and the exact pin of flwr.

Platforms of a deployment work side by side. Here, too, a few of those that were asked may: then one computes while
another waits for its disk. Answers come in the order of sending all the same, so that sums do not depend on it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock
from types import TracebackType
from typing import Self

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_CLIENT_APP_STOPPED = 8


class InlineGrid(Grid):
    """Nodes 1 … P in one process; a message is delivered, and its ClientApp run, when the grid is asked for answers.

    A pull answers one message, in the order of sending, so that the strategy folds an answer into its sum before it has
    the next. As a context manager it waits at the end for ClientApps that were begun ahead.

    Args:
        app: the ClientApp of all nodes.
        node_configs: what each node's own configuration says, by node id.
        run_config: the run's.
        ahead: how many further messages of those asked for are run meanwhile, in other threads. 0: none, and the next
            ClientApp begins when the answer before it was taken.
    """

    def __init__(
        self,
        app: ClientApp,
        node_configs: Mapping[int, Mapping[str, bool | float | int | str]],
        run_config: Mapping[str, bool | float | int | str] | None = None,
        *,
        ahead: int = 0,
    ) -> None:
        self._app = app
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config=dict(config),
                state=RecordDict({"state": ConfigRecord()}),
                run_config=dict(run_config or {}),
            )
            for node, config in node_configs.items()
        }
        self._queue: OrderedDict[str, Message] = OrderedDict()
        self._sent = 0
        self._run = Run.create_empty(run_id=1)
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(1 + ahead, thread_name_prefix="platform") if ahead else None
        self._begun: dict[str, Future[Message]] = {}
        self._clock = SharedClock()
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def platform_seconds(self) -> float:
        """Wall-clock seconds in which a ClientApp ran, which is the platforms' work and the messages' decoding."""
        return self._clock.seconds

    def set_run(self, run: Run) -> None:
        """Use ``run`` in place of the empty one."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that messages belong to."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message (deprecated by Flower in favour of the constructor)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; returns one id each."""
        ids = []
        for message in messages:
            self._sent += 1
            message.metadata.__dict__["_message_id"] = str(self._sent)
            self._queue[str(self._sent)] = message
            ids.append(str(self._sent))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the ClientApp for the oldest of the messages asked for; at most one answer a call."""
        asked = set(message_ids)
        wanted = list(islice((message_id for message_id in self._queue if message_id in asked), 1 + self._ahead))
        if not wanted:
            return []
        if self._pool is None:
            return [self._deliver(self._queue.pop(wanted[0]))]
        for message_id in wanted:
            if message_id not in self._begun:
                self._begun[message_id] = self._pool.submit(self._deliver, self._queue[message_id])
        del self._queue[wanted[0]]
        return [self._begun.pop(wanted[0]).result()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then collect all answers. ``timeout`` has no meaning here: nothing runs beside the caller."""
        ids = list(self.push_messages(messages))
        return [answer for message_id in ids for answer in self.pull_messages([message_id])]

    def _deliver(self, message: Message) -> Message:
        with self._clock:
            try:
                return self._app(message, self._contexts[message.metadata.dst_node_id])
            except Exception:
                return Message(Error(code=_CLIENT_APP_STOPPED), reply_to=message)


class SharedClock:
    """Measures for how long at least one thread was inside it."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds = 0.0
        self._now = now
        self._inside = 0
        self._since = 0.0
        self._lock = Lock()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._since = self._now()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self.seconds += self._now() - self._since
