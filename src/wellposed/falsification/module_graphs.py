"""Random modules as users write them, each a class with a forward of its own, from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellposed.falsification.module_statements import ALLOWED, Statement
from wellposed.falsification.module_writer import Value, Writer, norm_of
from wellposed.falsification.unusual_statements import unusual


@dataclass(frozen=True, eq=False, repr=False)
class UserModule:
    """A module of its own class.

    Attributes:
        module: in float64, in eval mode.
        shape: of one input.
        source: its class as Python.
        unusual: names of the constructs in it that may be refused; without any it should be certified.
        constants: upper bounds of its Lipschitz constant, as in `Value`; true of modules without unusual constructs only.
    """

    module: nn.Module
    shape: tuple[int, ...]
    source: str
    unusual: tuple[str, ...]
    constants: Tensor

    def __repr__(self) -> str:
        return f"UserModule(inputs of shape {self.shape}, {', '.join(self.unusual) or 'plain'})"

    def points(self, count: int, generator: torch.Generator) -> Tensor:
        """Random inputs, shape (count, *shape)."""
        return torch.randn(count, *self.shape, generator=generator, dtype=torch.float64, device="cpu")


def user_module(seed: int, *, plain: bool | None = None, construct: str | None = None) -> UserModule:
    """A random module.

    Args:
        seed: of everything.
        plain: whether it has only what a reader should know; None for one or the other.
        construct: an unusual construct for it to have; None for any.
    """
    draw = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = draw.random() < 0.5 if plain is None else plain
        shape = (draw.randint(2, 5),) if draw.random() < 0.7 else (draw.randint(1, 2), 4, 4)
        w = Writer(draw, [Value("x", shape, torch.ones(3, dtype=torch.float64, device="cpu"))])
        _body(w, draw.randint(2, 7))
        ends = w.values[-1]
        if not plain:
            name = unusual(w, construct)
            if draw.random() < 0.5:
                w.lines.append(f"{name} = torch.relu({name})")
            return UserModule(w.module(name), shape, w.source(name), tuple(w.unusual), ends.constants)
        name, known = _ending(w, ends)
        return UserModule(w.module(name), shape, w.source(name), (), known)


def _body(w: Writer, length: int, statements: tuple[Statement, ...] = (*ALLOWED, lambda w: _nested(w))) -> None:
    for _ in range(length):
        w.draw.choice(statements)(w)


def _nested(w: Writer) -> None:
    """A module of another class, itself written at random, as a part."""
    value = w.pick(1) if w.has(1) else w.pick(3)
    inner = Writer(w.draw, [Value("x", value.shape, torch.ones(3, dtype=torch.float64, device="cpu"))])
    _body(inner, w.draw.randint(1, 3), ALLOWED)
    last = inner.values[-1]
    part = w.part("block", inner.module(last.name))
    w.write(f"{part}({value.name})", last.shape, value.constants * last.constants, value)


def _ending(w: Writer, last: Value) -> tuple[str, Tensor]:
    """A head, most of the time; the name of the result and its constants."""
    if w.draw.random() < 0.3:
        return last.name, last.constants
    text = last.name if len(last.shape) == 1 else f"{last.name}.flatten(1)"
    size = int(torch.tensor(last.shape, device="cpu").prod())
    head = nn.Linear(size, 2, dtype=torch.float64)
    return f"{w.part('head', head)}({text})", last.constants * norm_of(head.weight)
