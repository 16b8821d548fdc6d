"""Bad arguments, a thousand of them, of every public function and command (`fuzz`)."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_bad_argument_is_refused_by_name():
    command = [sys.executable, ROOT / "tests" / "robustness" / "fuzz.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--seed", "0", "--calls", "1000", "--commands", "40"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
