"""What an attack leaves as it was: modes, gradients, random generators, loggers and tracers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from wellposed.errors import InputError
from wellposed.network.modes import evaluating
from wellposed.numerics.generators import same_generators


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """A model in eval mode, all of which is as before when it is over: each module's mode, each parameter's gradient.

    The global random generators, levels of loggers and the tracer are as before, too: packages of attacks set them.

    Args:
        model: what is attacked.

    Raises:
        InputError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: is a {type(model).__name__}; needs a torch.nn.Module that maps inputs to logits")
    parameters = [(part, part.grad, part.requires_grad) for part in model.parameters()]
    for parameter, _, _ in parameters:
        parameter.grad = None
    known: Any = list(logging.root.manager.loggerDict.values())
    levels = [(logger, logger.level) for logger in (logging.root, *known) if hasattr(logger, "level")]
    tracer = sys.gettrace()
    try:
        with same_generators(), evaluating(model):
            yield
    finally:
        sys.settrace(tracer)
        for parameter, gradient, needs in parameters:
            parameter.grad = gradient
            parameter.requires_grad_(needs)
        for logger, level in levels:
            logger.setLevel(level)
