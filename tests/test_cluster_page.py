"""slurm/README.md says of profiles, deaths and verbs what the code has."""

import re
from pathlib import Path
from typing import get_args

import pydantic_core
import typer
import yaml

from mac_bench.cli import app
from mac_bench.states import Cause
from slurm import policy, tend
from slurm.profile import FOLDER, Profile, load, names

PAGE = (Path(__file__).parent.parent / "slurm" / "README.md").read_text()


def table(after: str) -> list[list[str]]:
    """The rows of the first table after some text, cell by cell."""
    rows = [line for line in PAGE[PAGE.index(after) :].split("\n\n| ", 1)[1].split("\n\n")[0].splitlines()]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows[2:]]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_field_of_a_profile_is_there_with_its_default():
    said = {}
    for row in table("## What a profile says"):
        for name in words(row[0]):
            said[name] = words(row[1])
    assert list(said) == list(Profile.model_fields)
    for name, field in Profile.model_fields.items():
        empty = field.default_factory is not None or field.default in (None, "", (), pydantic_core.PydanticUndefined)
        if not empty:
            assert [yaml.safe_load(value) for value in said[name]] == [field.default], name


def test_every_profile_that_is_named_is_there_and_every_cause_has_a_row():
    named = {name.removesuffix(".yaml") for name in re.findall(r"`([\w-]+\.yaml)`", PAGE)}
    assert named == set(names()) == {path.stem for path in FOLDER.glob("*.yaml")}
    assert all(load(name).about for name in named)
    causes = [words(row[2])[0] for row in table("## What happens when things die")]
    assert sorted(causes) == sorted(get_args(Cause))


def test_numbers_are_those_of_the_policy():
    assert f"{policy.PATIENCE} attempts in a row" in PAGE and f"({policy.PATIENCE_ABROAD} where" in PAGE
    assert f"{policy.MEMORY_FACTOR} times the memory, {policy.MOST_RAISES} times at most" in PAGE
    assert f"the same error {policy.SAME_ERROR} times in a row" in PAGE
    assert f"for {tend.GRACE_S:.0f} seconds after a job's end" in PAGE


def test_every_command_on_the_page_exists():
    verbs = typer.main.get_command(app)
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    lines = [line.split("#")[0] for line in blocks.splitlines()]
    called = [call.split() for line in lines for call in re.findall(r"mac-bench [^)]*", line)]
    assert len(called) > 15
    for _, verb, *rest in called:
        command = verbs.commands[verb]  # pyright: ignore[reportAttributeAccessIssue]
        if hasattr(command, "commands"):
            command = command.commands[rest[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        for word in rest:
            assert not word.startswith("-") or word in known, f"{verb}: {word}"
