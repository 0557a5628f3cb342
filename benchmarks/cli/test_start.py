"""How long the command makes people wait before anything heavy is loaded.

pytest benchmarks/cli [--benchmark-json FILE]
"""

import subprocess
import sys
from typing import Any

import pytest

CALLS = {
    "help": (["--help"], 0, 0.4),
    "list": (["list", "kernels"], 0, 0.4),
    "typo": (["run", "dilemma", "data.batchsize=3"], 2, 0.6),
}


@pytest.mark.parametrize("name", CALLS)
def test_start(benchmark: Any, name: str) -> None:
    """Whole processes, as the shell starts them; the limit is the one that was promised."""
    arguments, code, limit = CALLS[name]
    command = [sys.executable, "-m", "vitkiln.engine.cli", *arguments]

    def once() -> None:
        assert subprocess.run(command, capture_output=True).returncode == code

    benchmark.extra_info.update(limit_s=limit, python=sys.version.split()[0])
    benchmark.pedantic(once, rounds=10, warmup_rounds=2)
    assert benchmark.stats.stats.median < limit
