"""Streams, events and graphs without a card: what was enqueued runs late, in any order that the events allow."""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class FakeCuda:
    """Stands for `torch.cuda`: nothing runs before the host waits; then steps are taken from random streams, as events allow.

    Copies between tensors and what is given to `enqueue` go to the current stream; so may nothing else that computes.
    """

    def __init__(self, seed: int = 0, waiters: int = 1, deaf: int | None = None) -> None:
        """Args:
        seed: of the order.
        waiters: threads that must wait at once before anything runs, so that many batches are in flight.
        deaf: number of a stream that does not wait for events.
        """
        self.random, self.deaf = random.Random(seed), deaf
        self.lock, self.barrier, self.local = threading.RLock(), threading.Barrier(waiters, timeout=30), threading.local()
        self.streams: list[FakeStream] = []
        self.serving = False  # from here on only events may be waited for
        self.waits = self.replays = 0
        self.registered: list[int] = []
        self.refusal = 0

    def Stream(self) -> "FakeStream":  # noqa: N802
        self.streams.append(FakeStream(self))
        return self.streams[-1]

    def Event(self, blocking: bool = False) -> "FakeEvent":  # noqa: N802
        return FakeEvent(self, blocking)

    def CUDAGraph(self) -> "FakeGraph":  # noqa: N802
        return FakeGraph(self)

    def graph_pool_handle(self) -> object:
        return object()

    def empty_cache(self) -> None:
        pass

    def synchronize(self) -> None:
        assert not self.serving, "the whole card was waited for"
        self.run_until(lambda: not any(stream.steps for stream in self.streams))

    def current_stream(self) -> "FakeStream":
        stream: FakeStream = self.local.stream
        return stream

    @contextmanager
    def stream(self, stream: "FakeStream") -> Iterator[None]:
        with Deferring(self):
            self.local.stream = stream
            yield
            del self.local.stream

    @contextmanager
    def graph(self, graph: "FakeGraph", pool: object, stream: "FakeStream", capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        with self.stream(stream):
            self.local.capture = graph
            yield
            del self.local.capture

    def cudart(self) -> Any:
        return SimpleNamespace(cudaHostRegister=self._register, cudaHostUnregister=self.registered.remove)

    def _register(self, address: int, size: int, flags: int) -> int:
        if not self.refusal:
            self.registered.append(address)
        return self.refusal

    def enqueue(self, work: Callable[[], object]) -> None:
        capture = getattr(self.local, "capture", None)
        with self.lock:
            (capture.steps if capture else self.current_stream().steps).append((None, work))

    def run_until(self, finished: Callable[[], bool]) -> None:
        """Takes steps in a random order until `finished`."""
        with self.lock:
            while not finished():
                ready = [s for s in self.streams if s.steps and (s.steps[0][0] is None or s.steps[0][0].done)]
                assert ready, "every stream waits for another"
                self.random.choice(ready).steps.popleft()[1]()


class Deferring(TorchDispatchMode):
    """Sends copies to the current stream."""

    VIEWS = ("view", "slice", "select", "transpose", "empty", "detach", "alias", "unbind", "lift_fresh")

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        if name == "copy_":
            self.cuda.enqueue(lambda: func(*args))
            return args[0]
        assert name in self.VIEWS, f"{name} is computed at once"
        return func(*args, **(kwargs or {}))


class Marker:
    done = False

    def set(self) -> None:
        self.done = True


class FakeStream:
    """A queue of steps, each with a marker that must be done before it."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.steps = cuda, deque[tuple[Marker | None, Callable[[], object]]]()

    def synchronize(self) -> None:
        assert not self.cuda.serving, "a stream was waited for"
        self.cuda.run_until(lambda: not self.steps)


class FakeEvent:
    def __init__(self, cuda: FakeCuda, blocking: bool) -> None:
        self.cuda, self.blocking, self.marker = cuda, blocking, Marker()

    def record(self, stream: FakeStream) -> None:
        with self.cuda.lock:
            self.marker = Marker()
            stream.steps.append((None, self.marker.set))

    def wait(self, stream: FakeStream) -> None:
        with self.cuda.lock:
            heeded = self.cuda.deaf is None or stream is not self.cuda.streams[self.cuda.deaf]
            stream.steps.append((self.marker if heeded else None, lambda: None))

    def synchronize(self) -> None:
        assert self.blocking, "the thread would spin"
        self.cuda.waits += 1
        self.cuda.barrier.wait()
        self.cuda.run_until(lambda: self.marker.done)


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.steps = cuda, list[tuple[Marker | None, Callable[[], object]]]()

    def replay(self) -> None:
        assert self.steps
        with self.cuda.lock:
            self.cuda.replays += 1
            self.cuda.current_stream().steps.extend(self.steps)


class EagerCuda(FakeCuda):
    """Everything runs at once, for networks that really compute."""

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        yield  # copies and all else are computed at once

    def current_stream(self) -> Any:
        return SimpleNamespace(cuda_stream=7)
