"""The README's own example, as a reader would run it."""

import json
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_library_example_trains_dies_and_resumes(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / "example.py").write_text(example.group(1))
    command = [
        *(sys.executable, "example.py", "train.batch_samples=64", "train.steps=60"),
        *("checkpoint.every_steps=20", "chaos.plan=[{do:kill,rank:0,step:30}]", "run.name=example"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs" / "example" / "summary.json").read_text())
    assert summary["steps"] == 60
    assert summary["recoveries"] == 1
    assert summary["final_loss"] < 3.0  # the variance of the sum of eight sines is 3.46
