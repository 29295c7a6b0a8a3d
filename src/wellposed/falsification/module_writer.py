"""A module's forward while it is being written: its lines, its parts, and what is known of its values."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ROOM = 1.0 + 1e-9  # for the rounding of constants, which prove nothing here
_HEAD = "import random\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\n"


@dataclass(frozen=True, eq=False)
class Value:
    """A variable of a forward that is being written.

    Attributes:
        name: of the variable.
        shape: of one sample.
        constants: upper bounds of its Lipschitz constant in the input, float64, shape (3,): the true one; what a reader
            finds who takes the first of two branches for their sum; what a reader finds who overlooks ``+=``.
    """

    name: str
    shape: tuple[int, ...]
    constants: Tensor


@dataclass
class Writer:
    """Writes one module.

    Attributes:
        draw: the source of all choices.
        values: what the lines so far have made and may be used further; the input first.
        lines: of the forward.
        parts: modules, by attribute.
        buffers: tensors, by attribute.
        plain: other attributes.
        unusual: names of the constructs that a reader of the module may refuse.
        training: names of the modules that stay in training mode.
    """

    draw: random.Random
    values: list[Value]
    lines: list[str] = field(default_factory=list)
    parts: dict[str, nn.Module] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    unusual: list[str] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    _count: int = 0

    def fresh(self, stem: str) -> str:
        """A name that is not used yet."""
        self._count += 1
        return f"{stem}{self._count}"

    def part(self, stem: str, module: nn.Module) -> str:
        """An attribute for a module; how the forward spells it."""
        name = self.fresh(stem)
        self.parts[name] = module.double().eval()
        return f"self.{name}"

    def buffer(self, stem: str, value: Tensor) -> str:
        """An attribute for a tensor; how the forward spells it."""
        name = self.fresh(stem)
        self.buffers[name] = value.double()
        return f"self.{name}"

    def attribute(self, stem: str, value: Any) -> str:
        """An attribute for a plain value; how the forward spells it."""
        name = self.fresh(stem)
        self.plain[name] = value
        return f"self.{name}"

    def pick(self, rank: int | None = None) -> Value:
        """One of the values, late ones more often, with so many dimensions; a flattened image if no vector is there."""
        if rank == 1 and not self.has(1):
            image = self.pick()
            return self.write(f"{image.name}.flatten(1)", (math.prod(image.shape),), image.constants.clone())
        fit = [value for value in self.values if rank is None or len(value.shape) == rank]
        return self.draw.choice(fit[-3:] if self.draw.random() < 0.7 else fit)

    def has(self, rank: int) -> bool:
        """Whether some value has so many dimensions."""
        return any(len(value.shape) == rank for value in self.values)

    def write(self, expression: str, shape: tuple[int, ...], constants: Tensor, source: Value | None = None) -> Value:
        """Assign an expression to a new variable, or to the name of a value that it is made of and that ends with it."""
        name = self.fresh("v")
        if source is not None and len(self.values) > 1 and self.draw.random() < 0.3:
            name = source.name
            self.values = [value for value in self.values if value.name != name]
        self.lines.append(f"{name} = {expression}")
        made = Value(name, shape, constants)
        self.values.append(made)
        return made

    def number(self) -> float:
        """A constant between 0.3 and 2, of either sign."""
        return round(self.draw.choice((-1.0, 1.0)) * self.draw.uniform(0.3, 2.0), 3)

    def source(self, result: str) -> str:
        """The module as Python."""
        body = [*self.lines, f"return {result}"]
        return "\n".join(
            [
                "class Written(nn.Module):",
                "    def __init__(self, parts, buffers, plain):",
                "        super().__init__()",
                "        for name, part in parts.items():",
                "            setattr(self, name, part)",
                "        for name, buffer in buffers.items():",
                "            self.register_buffer(name, buffer)",
                "        for name, value in plain.items():",
                "            setattr(self, name, value)",
                "",
                "    def forward(self, x, gain=0.5, *, shift=0.1):",
                *(f"        {line}" for line in body),
                "",
            ]
        )

    def module(self, result: str) -> nn.Module:
        """The module itself, in eval mode."""
        space: dict[str, Any] = {"__name__": "written"}
        exec(compile(_HEAD + self.source(result), "<written>", "exec"), space)
        made: nn.Module = space["Written"](self.parts, self.buffers, self.plain)
        made.eval()
        for name in self.training:
            self.parts[name].train()
        return made


def summed(first: Value, second: Value, *, in_place: bool = False) -> Tensor:
    """Constants of a sum or difference, also for readers who miss a branch or an operation in place."""
    both = first.constants + second.constants
    both[2 if in_place else 1] = first.constants[2 if in_place else 1]
    return both


def norm_of(weight: Tensor) -> float:
    """‖W‖₂ of a matrix, with room for rounding."""
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2)) * ROOM
