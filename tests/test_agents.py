"""The contract, over the registry: a file that is put into `baselines/` is tested here without another word."""

import pytest

from mac_bench import contract, registry

CASES = [(name, check) for name in registry.names() for check in contract.checks(name)]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check.name}" for name, check in CASES])
def test_agent_keeps_the_contract(name, check):
    check.run()
