"""Pre-training without natural images: which formula drew this picture? (FractalDB; Nakashima et al., arXiv:2103.13023)

Supervised training on the categories of `data.source: fractal` with the regularisation of DeiT, as published for
formula-driven data (Kataoka et al., arXiv:2206.09132). What differs from the published code is what differs in
supervised.py; diverging and nearly blank images are left out unless `data.official`.
"""

from __future__ import annotations

from .supervised import Supervised


class Fractal(Supervised):
    """loss = -sum_c y_c log softmax(head(encoder(image)))_c, y the mixed and smoothed category; ln C at the start"""
