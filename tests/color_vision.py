"""How far apart colours look to all kinds of eyes: Machado et al. 2009 at full severity, CIEDE2000."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from skimage.color import deltaE_ciede2000, rgb2lab

# Linear RGB to linear RGB: doi.org/10.1109/TVCG.2009.113, severity 1.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def find_nearest(colors: Sequence[Sequence[float]], vision: str) -> float:
    """The smallest distance of two of these colours, red, green and blue from 0 to 255, to such eyes."""
    seen = [_see(color, vision) for color in colors]
    return min(float(deltaE_ciede2000(one, other)) for one, other in combinations(seen, 2))


def _see(color: Sequence[float], vision: str) -> np.ndarray:
    parts = np.asarray(color[:3], dtype=float) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISIONS[vision] @ linear, 0, 1)
    shown = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return rgb2lab(shown[None, None])[0, 0]
