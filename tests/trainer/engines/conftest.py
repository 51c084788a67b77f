import pytest
from embedded_world import save_llama, serve


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Directories of the same architecture with weights 0, 1, 2."""
    root = tmp_path_factory.mktemp("weights")
    return [save_llama(root / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture
async def client(weights):
    async with serve(weights[0]) as client:
        yield client
