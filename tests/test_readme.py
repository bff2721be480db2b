"""The Python examples of the README run as pasted."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = re.findall(r"^~~~python\n(.*?)^~~~", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
CHECKS = (
    "assert 0 < wrong < .2",
    "assert (run / 'history.csv').exists() and model.generate(steps=2, count=3).frames.shape == (3, 2, 1, 32, 32)",
    "assert (low < high).all()",
)


@pytest.mark.parametrize(
    "example, check", list(zip(EXAMPLES, CHECKS, strict=True)), ids=("pretrained", "arrays", "series")
)
def test_example_runs_as_pasted(tmp_path, example, check):
    assert len(example.splitlines()) <= 12
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", f"{example}\n{check}"], cwd=tmp_path, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
