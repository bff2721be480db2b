"""The script that measures on a GPU, tried on a CPU in small: every part runs and says what it found, or why not."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_script_runs_in_small_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.json"
    order = ["--device", "cpu", "--dry-run", "--presets", "demo", "--json", str(out)]
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "gpu.py", *order], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["dry_run"] and found["card"] == "cpu"
    for part in ("steps", "memory", "kernels", "particles"):
        assert found[part] and all(("seconds" in row) != ("failed" in row) for row in found[part])
    failed = {row["how"] for part in ("steps", "kernels") for row in found[part] if "failed" in row}
    assert failed == {"graph", "kernel", "compile"}  # what needs a CUDA device, and what is not tried in small
    assert all("failed" not in row for row in (*found["memory"], *found["particles"]))
    assert "convolution" in found["profile"]["demo"]


def test_without_a_cuda_device_it_says_so():
    order = [sys.executable, "-c", "import gpu, torch; torch.cuda.is_available = lambda: False; gpu.main([])"]
    done = subprocess.run(order, capture_output=True, text=True, cwd=ROOT / "benchmarks")
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith("there is no CUDA device here")
