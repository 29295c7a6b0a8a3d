"""Functions that write into memory which is not theirs, made safe to iterate.

A solver holds several iterates at once, so no call may change what an earlier one was given or gave back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from wellposed.errors import InputError

_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
_WATCHED_CALLS = 2  # a function that gives back this many buffers in turn is found out by the next call


class Guarded:
    """A map of one state and further tensors, whose arguments are left alone and whose results have memory of their own.

    The first call finds out whether the map writes into its state, and the first few whether it gives back memory that it
    was given or gave back before. Only where it does is anything copied in later calls.

    Args:
        function: takes and returns one tensor of the shape of the state; it is given the tensors after the state.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._writes_state: bool | None = None  # None until the first call has shown it
        self._reuses_results = False
        self._calls = 0
        self._earlier: list[Tensor] = []  # results as they came, kept so that their memory is no one else's

    def __call__(self, state: Tensor, *tensors: Tensor) -> Tensor:
        """The image of the state.

        Raises:
            InputError: the map writes into one of ``tensors``, into its state in some calls only, or by ``out=`` where a
                gradient is needed.
        """
        if torch._C._are_functorch_transforms_active() and any(map(_is_wrapped, (state, *tensors))):
            return self._function(state.clone(), *tensors)  # whose memory cannot be looked at
        untold = self._writes_state is None or state.is_inference()
        own = state.clone() if untold or self._writes_state else state
        counted = [
            tensor for tensor in (own, *tensors) if not tensor.is_inference()
        ]  # inference tensors count no writes
        versions = [tensor._version for tensor in counted]
        try:
            image = self._function(own, *tensors)
        except RuntimeError as error:
            if "out=" not in str(error):
                raise
            raise InputError(
                "f: writes by out=, for which there is no gradient; return new tensors or call under no_grad"
            ) from error
        if versions != [tensor._version for tensor in counted]:
            self._judge_writing(own, counted, versions, allowed=own is not state)
        elif untold:
            self._writes_state = _memory(image) == _memory(own)
        if self._calls > _WATCHED_CALLS and not self._reuses_results:
            return image  # where that is the state itself, neither is written into
        return self._apart(image, tensors)

    def _judge_writing(self, own: Tensor, counted: Sequence[Tensor], versions: list[int], *, allowed: bool) -> None:
        for tensor, version in zip(counted, versions, strict=True):
            if tensor is not own and tensor._version != version:
                raise InputError(
                    f"f: writes into a tensor of shape {tuple(tensor.shape)} among its args or parameters; return new tensors"
                )
        if not allowed:
            raise InputError("f: writes into its state in some calls only; return new tensors")
        self._writes_state = True

    def _apart(self, image: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """The result, copied where its memory is not known to be fresh."""
        watched = self._calls < _WATCHED_CALLS
        if not self._reuses_results:
            place = _memory(image)
            self._reuses_results = any(place == _memory(other) for other in (*self._earlier, *tensors))
            self._earlier = [*self._earlier, image] if watched else []
        self._calls += 1
        return image.clone() if watched or self._reuses_results else image


def _memory(tensor: Tensor) -> int:
    """Which memory a tensor is in; sparse tensors are in none that a dense one could be in."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else -id(tensor)
