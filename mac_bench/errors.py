"""Errors are for the person who must act: one base class, one line that says what is wrong and what would be right."""

from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can put right. The command line prints its one line and leaves with exit code 2."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> UserError:
    """The error for a name that is not there, e.g. `no agent 'mopp'; there are: bc, mac, mopo`."""
    return UserError(f"no {kind} '{name}'; there are: {', '.join(sorted(valid))}")
