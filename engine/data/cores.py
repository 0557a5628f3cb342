"""How many cores there are to work on."""

import os


def cores() -> int:
    """Those that this process may use; where the system does not say, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
