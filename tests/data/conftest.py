from __future__ import annotations

import pytest
from pairs import write_data_set

from mmtrain.data import Manifest


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Read-only: tests that damage shards write their own."""
    return write_data_set(tmp_path_factory.mktemp("pairs"))
