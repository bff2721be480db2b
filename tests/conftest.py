"""What holds for every test: shapes are checked, one thread, the same random numbers, no window."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

# Every annotation of the library, `Float[Tensor, "batch time"]` above all, is checked while the tests run; so this
# comes before any import of it. As everywhere in Python, an int may stand where a float is annotated.
install_import_hook("kvae_nb", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import random
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import settings

# only when asked for by name: `make test-browser`, `make test-install`, `make test-gpu`
collect_ignore = ["browser", "gpu", "install"]
torch.set_num_threads(1)
if (
    threading.current_thread() is threading.main_thread()
):  # a shell in the background hands down signals that are ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def seeded():
    "Every test starts from the same random numbers, whichever ran before it."
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption(
        "--no-stability",
        action="store_true",
        help="leave out the comparison with stored numbers (tests/test_stability.py)",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "stability: compares with numbers stored by `make stability`")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--no-stability"):
        for item in items:
            if "stability" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="--no-stability"))
