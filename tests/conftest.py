"""What all tests share."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory, request):
    """Models trained before step 1 are kept for this session alone, and found again by tests on the same data."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if hasattr(request.config, "workerinput") else base  # pytest-xdist's workers share one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(common / "cache"))
        yield


def pytest_addoption(parser):
    """``--faults N``: how many faults `test_faults.py` tries for each kind of file, instead of a minute's worth."""
    parser.addoption("--faults", type=int, default=0)
