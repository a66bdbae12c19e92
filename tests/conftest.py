"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory, request):
    """Models trained before step 1 are kept for this session alone, and found again by tests on the same data."""
    base = tmp_path_factory.getbasetemp()
    common = base.parent if hasattr(request.config, "workerinput") else base  # pytest-xdist's workers share one
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(common / "cache"))
        yield


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Where the models of one test are kept, apart from the others'."""
    monkeypatch.setenv("ADAPTIVE_CONSTRAINTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def one_thread():
    """Networks this small gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_addoption(parser):
    """``--faults N``: how many faults `test_faults.py` tries for each kind of file, instead of a minute's worth."""
    parser.addoption("--faults", type=int, default=0)
