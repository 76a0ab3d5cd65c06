"""Every parser of files from outside, 10,000 changed inputs each. Run by scripts/acceptance."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).resolve().parent
EXAMPLES = 10_000


@pytest.mark.parametrize("file", ["test_fuzz_parsers.py", "test_fuzz_files.py"])
def test_only_errors_with_names_come_out_of_ten_thousand_inputs(file: str, tmp_path: Path) -> None:
    """The tests of the usual tier, with more examples: their limits of time and memory grow with the number or stay."""
    environment = {**os.environ, "SSLDET_FUZZ_EXAMPLES": str(EXAMPLES)}
    options = ["-q", "--timeout=0", "-p", "no:xdist", f"--basetemp={tmp_path / 'fuzz'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(HERE / file)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
