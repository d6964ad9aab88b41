"""The contract, over the registry: a file that is put into `baselines/` is tested here without another word."""

from pathlib import Path

import pytest

from mac_bench import contract, handbook, registry

# both modes are listed without making any agent, which takes a while; what an agent refuses is passed over
CASES = [(name, check) for name in registry.names() for check in contract.checks(name, (False, True))]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check.name}" for name, check in CASES])
def test_agent_keeps_the_contract(name, check):
    if check.goals is not None and check.goals not in contract.modes(name):
        pytest.skip(f"{name} does not take data with {'goals' if check.goals else 'rewards'}")
    check.run()


def test_the_page_of_methods_says_what_the_modules_say():
    page = Path(contract.__file__).parent.parent / "baselines" / "README.md"
    assert page.read_text() == handbook.methods_page(), "run: mac-bench agents --page > baselines/README.md"
