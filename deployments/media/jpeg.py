"""Whole JPEGs by libjpeg-turbo alone: the pixels that Pillow gives, without the copies that it makes of them."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray


def plain_jpeg(data: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """(H, W, 3) RGB of the JPEG file `data`, uint8 (size,), of three channels; None for one with anything to complain
    of, which Pillow may read all the same. Lets go of the interpreter."""
    try:
        pixels_HWC: NDArray[np.uint8] = simplejpeg.decode_jpeg(data.data, "RGB")
    except ValueError:
        return None
    return pixels_HWC
