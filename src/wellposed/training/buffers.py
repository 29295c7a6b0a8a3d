"""What a network carries beside its parameters, such as running statistics: part of a prior, and so fixed with it."""

from __future__ import annotations

import torch
from torch import nn

from wellposed.errors import CertificateError


class FrozenBuffers:
    """The buffers of a network at the time when its prior was chosen.

    A PAC-Bayes bound is about networks that the prior could have drawn. Statistics that were updated with samples which the
    bound counts, or with a test set, make them others.

    Args:
        model: the network, after the prior's training.
    """

    def __init__(self, model: nn.Module) -> None:
        self._then = {name: value.detach().clone() for name, value in model.named_buffers()}

    def check(self, model: nn.Module) -> None:
        """Refuse a network whose buffers have changed since.

        Raises:
            CertificateError: the name of a buffer that changed, came or went.
        """
        now = dict(model.named_buffers())
        changed = sorted(now.keys() ^ self._then.keys())
        changed += [name for name, then in self._then.items() if name in now and not torch.equal(now[name], then)]
        if changed:
            raise CertificateError(
                f"{changed[0]}: this buffer changed after the prior was chosen, so that the bound would count samples on which "
                "the prior depends; keep the network in evaluation mode from then on"
            )
