"""python -m benchmarks.data.million [DIR]: seconds to the first batch and memory where a folder names a million files.

DIR, made if it does not exist, gets a thousand pictures under a thousand names each. The list of files is first made,
then read from its cache, each time in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS, EACH = 1000, 1000
CHILD = """
import json, resource, sys, time
began = time.perf_counter()
import torch
from vitkiln.engine.data.loader import Loader
from vitkiln.engine.data.source import open_source
from vitkiln.engine.settings import Data
from vitkiln.engine.vocabulary import View
imported = time.perf_counter()
source = open_source(Data(root=sys.argv[1]), 0)
listed = time.perf_counter()
views = (View(blur=1.0), View(blur=0.1, solarize=0.2))
loader = Loader(source, views, batch_size=64, seed=0, workers=2, device=torch.device("cpu"), max_bad=0.1)
batch = next(iter(loader))
first = time.perf_counter()
loader.close()
peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"images": len(source), "import_s": imported - began, "list_s": listed - imported,
                  "first_batch_s": first - imported, "whole_s": first - began, "peak_mib": peak / 1024}))
"""


def main() -> None:
    """Make the folder if need be, then measure twice."""
    parser = argparse.ArgumentParser(prog="benchmarks.data.million", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the names are; a temporary one otherwise")
    given = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as scratch:
        folder = given or Path(scratch) / "images"
        if not folder.exists():
            fill(folder)
        for kind in ("list made", "list from the cache"):
            print(kind, measured(folder, Path(scratch) / "cache"))


def fill(folder: Path) -> None:
    """A name of every picture in every folder: hard links, of which a file system allows some ten thousand to one."""
    pictures = folder.with_name(f"{folder.name}-pictures")
    pictures.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(EACH):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(pictures / f"{number:04d}.jpg", quality=90)
    for number in range(FOLDERS):
        (folder / f"{number:04d}").mkdir(parents=True)
        for picture in range(EACH):
            os.link(pictures / f"{picture:04d}.jpg", folder / f"{number:04d}" / f"{number:04d}_{picture:04d}.jpg")
    os.sync()


def measured(folder: Path, cache: Path) -> str:
    """What a process of its own needs."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    ran = subprocess.run([sys.executable, "-c", CHILD, str(folder)], env=environment, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(ran.stderr)
    return "  ".join(f"{name} {value:,.2f}" for name, value in json.loads(ran.stdout).items())


if __name__ == "__main__":
    main()
