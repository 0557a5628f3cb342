"""Polygons that grow ring by ring: pictures in the manner of RCDB and VisualAtom, whose classes are their numbers.

RCDB (Kataoka et al., CVPR 2022) and VisualAtom (Takashima et al., arXiv:2303.01112). A ring moves every vertex of the
one before along its own direction, by noise and, for atoms, by two waves. Published ranges, for 512 pixels; other
sizes scale the drawing. Differences: the random numbers and the noise are ours, and grey 256 is 255.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.float64]
CANVAS = 512  # of the published numbers
SPAN = 10_000  # of the noise
SPREAD = 4.0  # the most that noise is multiplied by
WIDTH = 0.1
OVAL = 2.0


@dataclass(frozen=True, slots=True)
class Contour:
    """What makes a category. `waves` and the fields after it are drawn for every picture of RCDB anew."""

    vertices: int
    rings: int
    noise: float
    width: float  # by which a ring grows besides
    waves: tuple[int, int] | None = None
    radius: int = 0
    oval: tuple[float, float] = (1.0, 1.0)


def rcdb(numbers: np.random.Generator) -> Contour:
    """3 to 200 vertices, their number cut from an exponential distribution of mean 100; 1 to 200 rings."""
    vertices = 0
    while not 2 < vertices <= 200:
        vertices = int(numbers.exponential(100))
    return Contour(vertices, int(numbers.integers(1, 201)), numbers.uniform(0, SPREAD), numbers.uniform(0, WIDTH))


def atom(numbers: np.random.Generator) -> Contour:
    """200 to 1000 vertices, 1 to 200 rings, two frequencies of 0 to 20 that differ unless both are 0."""
    vertices, rings = int(numbers.integers(200, 1001)), int(numbers.integers(1, 201))
    noise, width, radius = numbers.uniform(0, SPREAD), numbers.uniform(0, WIDTH), int(numbers.integers(10, 61))
    first = second = int(numbers.integers(0, 21))
    while True:
        second = int(numbers.integers(0, 21))
        if second != first or first == 0:
            break
    return Contour(vertices, rings, noise, width, (first, second), radius, _oval(numbers))


def picture(contour: Contour, numbers: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """uint8 [size, size]: an atom's rings on black, those of RCDB on white."""
    if contour.waves is None:
        radius, oval, far, paper = int(numbers.integers(0, 101)), _oval(numbers), 400, 255
    else:
        radius, oval, far, paper = contour.radius, contour.oval, CANVAS, 0
    centre = (CANVAS + numbers.integers(-far, far + 1, 2)) / 2
    rings = centre[:, None] + outlines(contour, radius * np.array(oval), numbers)  # [rings, 2, vertices]
    greys = numbers.integers(0, 257 if contour.waves is None else 256, contour.rings).clip(max=255)
    image = Image.new("L", (size, size), paper)
    pen = ImageDraw.Draw(image)
    closed = np.concatenate([rings, rings[:, :, :1]], 2).transpose(0, 2, 1) * (size / CANVAS)
    for line, grey in zip(closed.reshape(len(closed), -1).tolist(), greys.tolist(), strict=True):
        pen.line(line, fill=grey, width=1)
    return np.asarray(image)


def outlines(contour: Contour, radii: Array, numbers: np.random.Generator) -> Array:
    """x and y of every vertex of every ring about the centre: [rings, 2, vertices]

    ring_r = ring_(r-1) - direction * (s c noise - c - waves - width), ring_0 = radii * direction; s is 2 for RCDB.
    """
    angles = 2 * math.pi * np.arange(contour.vertices) / contour.vertices
    directions = np.stack([np.cos(angles), np.sin(angles)])  # [2, vertices]
    chance = gradient_noise(numbers.uniform(0, SPAN, (contour.rings, 2, contour.vertices)))
    if contour.waves is None:
        inwards = chance * (2 * contour.noise)
    else:
        waves = 0.5 * sum(np.sin(frequency * angles) for frequency in contour.waves)
        inwards = chance * contour.noise - waves
    moves = directions * (inwards - contour.noise - contour.width)
    return radii[:, None] * directions - moves.cumsum(0)


def gradient_noise(places: Array) -> Array:
    """Noise in [-1, 1] along a line, nought at whole places, with a slope of its own at each (Perlin's, in 1-D)."""
    slopes, whole = _slopes(), places.astype(np.int64)
    x = places - whole
    before, after = slopes[whole] * x, slopes[whole + 1] * (x - 1)
    return before + (after - before) * (x * x * x * (x * (6 * x - 15) + 10))


@cache
def _slopes() -> Array:
    return np.random.Generator(np.random.Philox(key=CANVAS)).uniform(-2, 2, SPAN + 2)


def _oval(numbers: np.random.Generator) -> tuple[float, float]:
    across, down = numbers.uniform(1, OVAL, 2).tolist()
    return across, down
