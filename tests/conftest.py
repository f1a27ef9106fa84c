"""How tests are shared out among the workers of pytest-xdist; drawn examples may take their time on a busy machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling


settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Tests of one file with the same parameters go to one worker, where what they share is made once."""
    from xdist.scheduler import LoadScopeScheduling  # plain pytest runs without

    class ByParameters(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, test = nodeid.partition("::")
            _, bracket, parameters = test.partition("[")
            return f"{path}[{parameters}" if bracket else nodeid

    return ByParameters(config, log)
