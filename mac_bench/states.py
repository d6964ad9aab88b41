"""The states a run can be in, why an attempt ends, and what the user may order."""

from typing import Literal

import pydantic

State = Literal["waiting", "running", "lost", "stopped", "held", "cancelled", "failed", "finished"]
"""`waiting` has not begun; `lost` says that it runs but shows no sign of life; `stopped` and `lost` can be continued;
`held` and `cancelled` were ordered"""
Cause = Literal[
    "time limit",
    "preempted",
    "requeued",
    "node failed",
    "job lost",
    "signalled",
    "out of memory",
    "out of GPU memory",
    "killed",
    "error",
    "refused",
    "ordered",
]
"""why an attempt ended before its run was finished; `refused` is what the user must put right, `error` a defect"""
Wish = Literal["go", "hold", "cancel"]

OBEYED: dict[Wish, State] = {"go": "waiting", "hold": "held", "cancel": "cancelled"}


class Order(pydantic.BaseModel):
    """What order.json of a run folder holds."""

    wish: Wish
    """`go` also says that what happened before it is forgiven"""
    time: float
    reason: str

    @property
    def state(self) -> State:
        """What a run becomes that obeys."""
        return OBEYED[self.wish]

    @property
    def keeps(self) -> bool:
        """Whether it keeps a run from being trained."""
        return self.wish != "go"

    def stands(self, state: str, step: int, heartbeat: float | None) -> State | None:
        """The state of a run that last said these; None where the order changes nothing.

        A run that is in hands, or is finished, is what it says itself. `go` counts only where it came after that.
        """
        if self.keeps:
            return self.state if state in ("waiting", "stopped", "failed", "held", "cancelled") else None
        if state in ("failed", "held", "cancelled") and heartbeat is not None and self.time > heartbeat:
            return "stopped" if step else "waiting"
        return None
