"""Work side by side in processes of their own."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mac_bench.errors import UserError

Item = TypeVar("Item")


def spread(function: Callable[[Item], Any], items: Sequence[Item], workers: int) -> Iterator[tuple[Item, Any]]:
    """(item, `function(item)`), as they get done; in this process where one worker or one item makes no difference.

    Raises what `function` raises, and UserError where a process died; what has not begun is then not begun.
    """
    if workers <= 1 or len(items) <= 1:
        yield from ((item, function(item)) for item in items)
        return
    context = multiprocessing.get_context("spawn")  # forking a process in which JAX runs can deadlock
    with ProcessPoolExecutor(min(workers, len(items)), mp_context=context) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker died, maybe for lack of memory; repeat the call to continue, with fewer workers"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
