"""What each column of the parameters of `augment_views` says; no torch, so that whoever draws them stays light."""

import numpy as np
from numpy.typing import NDArray

FLIP = 0  # 1: mirrored left to right, 2: upside down, 3: both
JITTER = 1  # 1: the four operations below, in the order of ORDER
ORDER = slice(2, 6)  # a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue
FACTORS = slice(6, 9)  # of brightness, contrast and saturation; 1 changes nothing
HUE = 9  # turn of the colour circle, -0.5 to 0.5; exactly 0 changes nothing
GRAY = 10  # 1: grey
SIGMA = 11  # of the Gaussian blur in pixels, below 2.44; 0: none
THRESHOLD = 12  # values from here on are inverted; 256: none
COUNT = 13
LARGEST_SIGMA = 2.44


def identity() -> NDArray[np.float32]:
    """The row that changes nothing.

    >>> identity().tolist()
    [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 256.0]
    """
    row = np.zeros(COUNT, np.float32)
    row[ORDER] = range(4)
    row[FACTORS] = 1
    row[THRESHOLD] = 256
    return row


def asks(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows [.., COUNT] change anything at all.

    >>> row = identity()
    >>> row[JITTER] = 1
    >>> bool(asks(row)), bool(asks(row + (np.arange(COUNT) == HUE) / 10))
    (False, True)
    """
    jitter = (rows[..., JITTER] > 0) & ((rows[..., FACTORS] != 1).any(-1) | (rows[..., HUE] != 0))
    others = (rows[..., FLIP] > 0) | (rows[..., GRAY] > 0) | (rows[..., SIGMA] > 0) | (rows[..., THRESHOLD] < 256)
    return np.asarray(jitter | others)
