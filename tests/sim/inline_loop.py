"""What stands where asyncio expects its loop: nothing runs by itself, nothing waits for a clock.

Callbacks lie in a list until `run_ready`. The work of a worker thread is done by the `Task` that
asked for it, in two steps: at the first it has not begun yet, at the second it is done and nobody
has noticed. So a history can put anything between them, and replays from its seed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any


class InlineLoop:
    """As much of an event loop as Committer, Intake, Bookkeeping and Sending ask for."""

    def __init__(self) -> None:
        self._ready: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within the block `asyncio.get_running_loop()` is this one."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._ready.append((callback, args))

    def run_in_executor(self, _executor: Any, function: Callable[..., Any], *args: Any) -> _Work:
        return _Work(function, args)

    def run_ready(self) -> None:
        """Run what was asked for, and what that asks for."""
        while self._ready:
            callback, args = self._ready.popleft()
            callback(*args)

    def forget(self) -> None:
        """The process is gone."""
        self._ready.clear()


class _Work:
    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args

    def __await__(self) -> Generator[None, None, Any]:
        yield
        result = self._function(*self._args)
        yield
        return result


class Task:
    """A coroutine that is stepped by hand."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self.done = False
        self.result: Any = None

    def step(self) -> None:
        """Go on to the next wait for a worker thread. Raises what the coroutine raises."""
        try:
            self._coroutine.send(None)
        except StopIteration as stop:
            self.done, self.result = True, stop.value
        except BaseException:
            self.done = True
            raise

    def finish(self) -> Any:
        """Go on to its end."""
        while not self.done:
            self.step()
        return self.result

    def forget(self) -> None:
        """The process is gone."""
        if not self.done:
            self.done = True
            self._coroutine.close()
