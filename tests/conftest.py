"""What all tests share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """Models trained before tick 1 are kept for this session alone, and found again by tests on the same data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
