import pytest
import torch

import data


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist():
    return data.load_mnist()


@pytest.fixture(scope="session")
def pair_sets():
    return data.generate_pair_sets(1000, torch.Generator().manual_seed(0))
