"""Where there is no CUDA device these tests are skipped, and one line says how many: nothing has been shown then."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the models of the common suites
REASON = "no CUDA device"


def pytest_collection_modifyitems(config, items):
    if not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason=REASON))


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if REASON in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} GPU tests skipped: {REASON} (nothing ran, so nothing is shown)")
