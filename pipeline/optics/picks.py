"""Lists of the pixels that something is done for: as many as there are, or a number of places that is fixed in advance.

Special: a list as long as the pixels found makes the host wait for their number. With a fixed number of places, empty ones
repeat the first pixel: whatever is computed and written for them is what is written there anyway.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor


def pick(mask: Tensor, share: float | None) -> Tensor:
    """Flat indices where a mask holds, in order.

    Args:
        mask: any shape, bool.
        share: places, as a share of the mask's size; None for as many as it holds.

    Returns:
        (E) indices. With places, those left over hold the first index again (0 if the mask holds nowhere), and what
        finds no place is missing.
    """
    flat = mask.flatten()
    if share is None:
        return flat.nonzero()[:, 0]
    count = len(flat)
    places = max(1, math.ceil(share * count))
    slot = flat.cumsum(0)  # from 1
    target = torch.where(flat & (slot <= places), slot - 1, places)
    numbers = torch.arange(count, device=flat.device)
    filled = torch.zeros(places + 1, dtype=torch.long, device=flat.device).scatter_(0, target, numbers)[:places]
    _missing(flat.device).add_((slot[-1] - places).clamp(min=0))
    first = flat.to(torch.uint8).argmax()
    return torch.where(numbers[:places] < slot[-1], filled, first)


def places_missing(device: torch.device | str = "cpu") -> int:
    """How many pixels found no place on a device since this was last asked, in all lists. The host waits for the answer."""
    counter = _missing(torch.empty(0, device=device).device)
    missing = int(counter)
    counter.zero_()
    return missing


@lru_cache(maxsize=16)
def _missing(device: torch.device) -> Tensor:
    """A number that stays on the device, so that counting does not wait, and a captured graph counts on."""
    with torch.inference_mode(False):
        return torch.zeros((), dtype=torch.long, device=device)


def repeats(at: Tensor) -> Tensor:
    """(E) bool: which places only repeat the first index, of a list from `pick`."""
    number = torch.arange(len(at), device=at.device)
    return (at == at[:1]) & (number > 0)
