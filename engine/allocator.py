"""Keep the pages of freed tensors: a CPU step otherwise spends a tenth of its time having them zeroed again."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h of glibc


def keep_freed_pages() -> bool:
    """Tell glibc to serve large blocks from its heap and never to give the heap back; False where there is no glibc.

    By default every block above 32 MB is mapped afresh and returned when it is freed, so that the system zeroes its
    pages again and again: activations are such blocks in every step.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    return all(mallopt(*option) for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 1 << 26)))
