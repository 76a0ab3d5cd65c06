"""What the speed benchmarks share: a description of the machine, and the results file with its tables."""

from __future__ import annotations

import json
import math
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssldet.util.files import write_json, write_text

HERE = Path(__file__).parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
PAGE = HERE.parents[1] / "docs" / "performance.md"
"""The page for readers, with the same table."""

INTRODUCTION = """\
# Measured speed

Each benchmark is a script of this folder that times a part of the suite against the obvious loops over boxes, written
down in the same script, and checks that both give the same numbers. It writes its figures to `results.json`, this page
and the table of `docs/performance.md` anew. Times are processor seconds of all threads on the machine named beside them
(`results.json` has wall-clock seconds and the load too); where the loops ran on a part only, their time is scaled up,
and it says from what.

| benchmark | suite | loops | ratio | aim | peak memory | machine |
|---|---|---|---|---|---|---|
"""


def machine() -> dict[str, Any]:
    """The processor, its cores and load, and the versions that decide the speed."""
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    packages = ("numpy", "numba", "pyarrow", "torch")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def peak_memory_mb() -> float:
    """Highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Timer:
    """Processor seconds of a block, all threads, in `seconds`; and `wall_seconds`, which other processes lengthen."""

    def __enter__(self) -> Timer:
        self._start = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._start[0]
        self.wall_seconds = time.perf_counter() - self._start[1]


def typical(function: Callable[[], object], repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of a call, on the processor and on the wall, after `warm_up` calls that are not counted."""
    for _ in range(warm_up):
        function()
    timers = [Timer() for _ in range(repeats)]
    for timer in timers:
        with timer:
            function()
    return {
        "seconds": statistics.median(timer.seconds for timer in timers),
        "wall_seconds": statistics.median(timer.wall_seconds for timer in timers),
        "repeats": repeats,
    }


def record(name: str, figures: dict[str, Any]) -> None:
    """Put a benchmark's figures into the results file and the table; they name `seconds`, `loops_seconds`, `aim`."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[name] = {**figures, "ratio": round(figures["loops_seconds"] / figures["seconds"], 2), "machine": machine()}
    results = dict(sorted(results.items()))
    write_json(RESULTS, results)
    rows = "".join(_row(key, found) for key, found in results.items())
    write_text(README, INTRODUCTION + rows)
    put_into_page("figures", INTRODUCTION[INTRODUCTION.index("| benchmark") :] + rows)
    print(json.dumps(results[name], indent=2))


def put_into_page(name: str, table: str) -> None:
    """Put a table between its marks in the page for readers; all else there stays."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = PAGE.read_text().split(begin)
    _, after = rest.split(end)
    write_text(PAGE, f"{before}{begin}\n\n{table}\n{end}{after}")


def _row(name: str, found: dict[str, Any]) -> str:
    place = f"{found['machine']['processor']}, {found['machine']['cores']} cores"
    memory = f"{found['peak_memory_mb']:.0f} MB" if "peak_memory_mb" in found else ""
    cells = [name, f"{found['seconds']:.3g}", f"{found['loops_seconds']:.4g}", _times(found["ratio"]), found["aim"]]
    return f"| {' | '.join([*cells, memory, place])} |\n"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.0f}x"


def flop_counter() -> FlopCounterMode:
    """Counts the operations of convolutions and products in a `with` block, those of groups as few as they are.

    torch's own count of a backward pass takes every group for a layer of all channels.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _flops_backward})


def _flops_backward(
    out: list[int], _x: list[int], weight: list[int], _bias: Any, *options: Any, out_shape: Any = None, **_: Any
) -> int:
    """Of the gradients of input and weight, as many each as the forward pass has."""
    wanted = options[-1]  # gradients of input, weight and bias
    return 2 * out[0] * math.prod(out[2:]) * math.prod(weight) * sum(wanted[:2])
