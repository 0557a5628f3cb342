"""What each row of the operations of `rand_augment` says; no torch, so that whoever draws them stays light."""

import math

import numpy as np
from numpy.typing import NDArray

KIND = 0  # the column of one of the numbers below
NUMBERS = slice(1, 7)  # what the kind needs; those that it does not are not read
COUNT = 7

NONE = 0
AUTO_CONTRAST = 1  # each channel stretched from 0 to 255
EQUALIZE = 2  # the histogram of each channel made flat
INVERT = 3
ROTATE = 4  # six: a place x, y is filled from a x + b y + c, d x + e y + f; centres of pixels lie at halves
POSTERIZE = 5  # one: how many high bits are kept, 0 to 8
SOLARIZE = 6  # one: values from here on are inverted
SOLARIZE_ADD = 7  # one: added to values below 128, 0 to 255
COLOR = 8  # one: the factor of a blend of the picture's own grey with it; 1 changes nothing, and so below
CONTRAST = 9  # one: of its mean grey with it
BRIGHTNESS = 10  # one: of black with it
SHARPNESS = 11  # one: of the smoothed picture with it
SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y = 12, 13, 14, 15  # six, as ROTATE; the host knows which of them are 0
MIRROR = 16  # left to right
UPSIDE_DOWN = 17

MOVES = (ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y)
Map = tuple[float, float, float, float, float, float]


def row(kind: int, *numbers: float) -> NDArray[np.float64]:
    """One operation, its numbers filled up with zeros: float64 [7]

    >>> row(SOLARIZE, 128).tolist()
    [6.0, 128.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    filled = np.zeros(COUNT)
    filled[KIND] = kind
    filled[1 : 1 + len(numbers)] = numbers
    return filled


def rotation(degrees: float, width: int, height: int) -> Map:
    """The six numbers that turn a picture anticlockwise around its centre, rounded as Pillow rounds them.

    >>> rotation(0, 4, 6)
    (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    """
    if degrees % 360.0 == 0:
        return 1.0, 0.0, 0.0, 0.0, 1.0, 0.0
    angle = -math.radians(degrees % 360.0)
    cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
    opposite = round(-math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cosine, sine, cosine * -x + sine * -y + x, opposite, cosine, opposite * -x + cosine * -y + y
