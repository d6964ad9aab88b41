"""The store of imagined transitions: one ring of tensors that forgets the oldest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Transitions(NamedTuple):
    """B steps, logged or imagined."""

    obs: Tensor
    """[B, O]"""
    action: Tensor
    """[B, A]"""
    reward: Tensor
    """[B]"""
    alive: Tensor
    """[B] 0 where the task has ended in obs"""
    next_obs: Tensor
    """[B, O]"""
    value_goal: Tensor | None = None
    """[B, G]"""
    actor_goal: Tensor | None = None
    """[B, G]"""

    @classmethod
    def join(cls, parts: Sequence["Transitions"]) -> "Transitions":
        """One after the other."""
        columns: Any = zip(*parts, strict=True)
        joined: Any = (None if column[0] is None else torch.cat(column) for column in columns)
        return cls(*joined)

    def rows(self, which: Any) -> "Transitions":
        """Some of the rows: a slice, or their numbers."""
        columns: Any = (None if column is None else column[which] for column in self)
        return Transitions(*columns)


class Ring(nn.Module):
    """Up to `capacity` transitions; a full ring overwrites the oldest. All of it is in the `state_dict`."""

    written: Tensor
    """how many rows ever; on the CPU, as asking a GPU would mean to wait for it"""

    def __init__(self, capacity: int, example: Transitions):
        super().__init__()
        self.capacity = capacity
        for name, column in example._asdict().items():
            self.register_buffer(name, None if column is None else column.new_zeros((capacity, *column.shape[1:])))
        self.register_buffer("written", torch.zeros((), dtype=torch.long, device="cpu"))

    def __len__(self) -> int:
        return min(int(self.written), self.capacity)

    def add(self, rows: Transitions) -> None:
        """Write rows behind the last ones; of more than `capacity`, the last."""
        number = len(rows.obs)
        kept = slice(max(number - self.capacity, 0), None)
        places = (int(self.written) + torch.arange(number, device=rows.obs.device))[kept] % self.capacity
        for name, column in rows.rows(kept)._asdict().items():
            if column is not None:
                getattr(self, name)[places] = column
        self.written += number

    def draw(self, size: int, random: torch.Generator) -> Transitions:
        """[size] rows, uniform over what has been written, with replacement."""
        if len(self) == 0:
            raise ValueError("nothing has been written to this ring yet")
        columns = Transitions(*(getattr(self, name) for name in Transitions._fields))
        return columns.rows(torch.randint(len(self), (size,), generator=random, device=columns.obs.device))
