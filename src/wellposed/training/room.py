"""Whether a machine has room for a training, told before the system ends whoever asks for more memory than there is."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from wellposed.data import Data
from wellposed.errors import InputError, WellposedError
from wellposed.models.families.base import Family
from wellposed.network.chance import generators_kept


def check_room(family: Family, data: Data) -> None:
    """Refuse a network whose training has no room in this machine's memory.

    Raises:
        InputError: it needs more than there is for weights, gradients and Adam's two moments alone.
    """
    try:
        with generators_kept(), torch.device("meta"):
            parameters = list(family.model(data).parameters())
    except WellposedError:
        raise
    except Exception:  # of a family of a user's own, which may take its numbers from somewhere else
        return
    needed = 4 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else needed
    if needed > room:
        raise InputError(
            f"width={family.width}: training takes {needed / 1e9:.3g} GB for {sum(map(Tensor.numel, parameters)):,} parameters "
            f"alone, and this machine has {room / 1e9:.3g} GB; use fewer or smaller layers, or smaller inputs"
        )
