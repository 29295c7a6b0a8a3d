"""Lines that users write in a forward and that a reader of modules should know: their constants are known, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.certificates import certify
from wellposed.falsification.module_writer import ROOM, Value, Writer, norm_of, summed
from wellposed.layers import SLL, Sandwich
from wellposed.layers.lben import LBEN
from wellposed.layers.mondeq import MonDEQ
from wellposed.layers.nemon import NEMON
from wellposed.layers.orthogonal_linear import OrthogonalLinear

Statement = Callable[[Writer], None]
_ACTIVATIONS = {
    "F.relu({})": 1.0, "torch.relu({})": 1.0, "{}.relu()": 1.0, "torch.tanh({})": 1.0, "{}.tanh()": 1.0,
    "torch.sigmoid({})": 0.25, "{}.sigmoid()": 0.25, "F.dropout({}, 0.3, self.training)": 1.0, "F.hardtanh({})": 1.0,
    "F.dropout({}, p=0.5, training=False)": 1.0,
}  # fmt: skip
_MODULES: tuple[Callable[[], nn.Module], ...] = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity, nn.Dropout, nn.Hardtanh)
_WIDE: dict[str, Any] = {"dtype": torch.float64}


def linear(w: Writer) -> None:
    """A linear map of a vector."""
    value, outputs = w.pick(1), w.draw.randint(2, 5)
    layer = nn.Linear(value.shape[0], outputs, bias=w.draw.random() < 0.7, **_WIDE)
    w.write(f"{w.part('linear', layer)}({value.name})", (outputs,), value.constants * norm_of(layer.weight), value)


def equilibrium(w: Writer) -> None:
    """A layer of the library with a constant of its own."""
    value, states = w.pick(1), w.draw.randint(2, 5)
    inputs = value.shape[0]
    makers: tuple[Callable[[], nn.Module], ...] = (
        lambda: MonDEQ(inputs, states, m=0.5, activation=w.draw.choice(("relu", "tanh")), **_WIDE),
        lambda: NEMON(inputs, states, mu=0.3, **_WIDE),
        lambda: LBEN(inputs, 4, gamma=1.5, out_features=states, **_WIDE),
        lambda: Sandwich(inputs, states, **_WIDE),
        lambda: SLL(inputs, **_WIDE),
    )
    place = w.draw.randrange(len(makers))
    layer, outputs = makers[place](), inputs if place == len(makers) - 1 else states
    constant = certify(layer, method="product").lipschitz
    w.write(f"{w.part('layer', layer)}({value.name})", (outputs,), value.constants * constant, value)


def orthogonal(w: Writer) -> None:
    """An orthogonal linear map."""
    value = w.pick(1)
    layer = OrthogonalLinear(value.shape[0], value.shape[0], **_WIDE)
    w.write(f"{w.part('orthogonal', layer)}({value.name})", value.shape, value.constants * norm_of(layer.weight), value)


def activation(w: Writer) -> None:
    """An activation, as a function, a method or a module."""
    value = w.pick()
    if w.draw.random() < 0.3:
        name = w.part("activation", w.draw.choice(_MODULES)())
        w.write(f"{name}({value.name})", value.shape, value.constants.clone(), value)
        return
    text, constant = w.draw.choice(list(_ACTIVATIONS.items()))
    w.write(text.format(value.name), value.shape, value.constants * constant, value)


def _partner(w: Writer, value: Value) -> Value:
    """Another value of the same shape, or a new one."""
    fit = [other for other in w.values if other.shape == value.shape and other.name != value.name]
    if fit and w.draw.random() < 0.7:
        return w.draw.choice(fit)
    if len(value.shape) > 1:
        return w.write(f"torch.tanh({value.name})", value.shape, value.constants.clone())
    layer = nn.Linear(value.shape[0], value.shape[0], **_WIDE)
    text = f"F.relu({w.part('branch', layer)}({value.name}))"
    return w.write(text, value.shape, value.constants * norm_of(layer.weight))


def branches(w: Writer) -> None:
    """The sum or the difference of two branches."""
    first = w.pick()
    second = _partner(w, first)
    texts = ("{} + {}", "{} - {}", "torch.add({}, {})", "torch.sub({}, {})", "{}.add({})", "{}.sub({})")
    w.write(w.draw.choice(texts).format(first.name, second.name), first.shape, summed(first, second), first)


def weighted(w: Writer) -> None:
    """A sum of two branches, one of them times a number."""
    first = w.pick()
    second, factor = _partner(w, first), w.number()
    text = w.draw.choice(("{0} + {2} * {1}", "{0} + {1} * {2}", "torch.add({0}, {1}, alpha={2})"))
    times = Value(second.name, second.shape, second.constants * abs(factor))
    w.write(text.format(first.name, second.name, factor), first.shape, summed(first, times), first)


def in_place(w: Writer) -> None:
    """``h += v`` on an intermediate value that nothing else sees."""
    value = w.pick(1)
    layer = nn.Linear(value.shape[0], value.shape[0], **_WIDE)
    name = w.fresh("h")
    w.lines.append(f"{name} = {w.part('residual', layer)}({value.name})")
    made = Value(name, value.shape, value.constants * norm_of(layer.weight))
    w.lines.append(w.draw.choice((f"{name} += {value.name}", f"{name} -= {value.name}")))
    w.values.append(Value(name, value.shape, summed(made, value, in_place=True)))


def constants(w: Writer) -> None:
    """Numbers that multiply, divide or are added."""
    value, number = w.pick(), w.number()
    choices = {
        "{} * {}": abs(number), "{1} * {0}": abs(number), "{} / {}": 1.0 / abs(number), "{} + {}": 1.0, "{1} - {0}": 1.0,
        "-{}": 1.0, "torch.mul({}, {})": abs(number), "torch.neg({})": 1.0, "{}.mul({})": abs(number), "{} * gain": 0.5,
        "{} + shift": 1.0, "{}.div({})": 1.0 / abs(number),
    }  # fmt: skip
    text, factor = w.draw.choice(list(choices.items()))
    w.write(text.format(value.name, number), value.shape, value.constants * (factor * ROOM), value)


def tensor_constants(w: Writer) -> None:
    """Tensors that multiply or are added, of all features, of channels, or of one number; normalisation by hand."""
    value = w.pick()
    count = value.shape[0]
    tail = (1,) * (len(value.shape) - 1)
    sizes = torch.rand(count, *tail, dtype=torch.float64, device="cpu") + 0.5
    if w.draw.random() < 0.3:
        sizes = sizes[:1].reshape(())
    name, other = w.buffer("scale", sizes), w.buffer("mean", torch.randn_like(sizes))
    largest, least = float(sizes.max()) * ROOM, float(sizes.min()) / ROOM
    choices = {
        "{0} * {1}": largest, "{1} * {0}": largest, "{0} / {1}": 1.0 / least, "({0} - {2}) / {1}": 1.0 / least, "{0} + {2}": 1.0,
        "torch.add({0}, {2})": 1.0, "({0} + {2}) * {1}": largest,
    }  # fmt: skip
    text, factor = w.draw.choice(list(choices.items()))
    w.write(text.format(value.name, name, other), value.shape, value.constants * factor, value)


def flattened(w: Writer) -> None:
    """An image as a vector."""
    value = w.pick(3 if w.has(3) else 1)
    texts = (
        "{0}.flatten(1)", "torch.flatten({0}, 1)", "{0}.reshape({0}.shape[0], -1)", "{0}.view({0}.size(0), -1)",
        "torch.flatten({0}, start_dim=1)",
    )  # fmt: skip
    w.write(w.draw.choice(texts).format(value.name), (math.prod(value.shape),), value.constants.clone(), value)


def image_map(w: Writer) -> None:
    """A convolution, a pooling or a normalisation of an image."""
    if not w.has(3):
        return linear(w)
    value = w.pick(3)
    channels, height, width = value.shape
    layer: nn.Module
    place = w.draw.randrange(3)
    if place == 0:
        layer = nn.Conv2d(channels, 2, 3, padding=1, **_WIDE)
        sums = layer.weight.detach().abs().sum((2, 3))
        constant, shape = float((sums.sum(0).max() * sums.sum(1).max()).sqrt()) * ROOM, (2, height, width)
    elif place == 1 and min(height, width) >= 2:
        layer, constant, shape = nn.AvgPool2d(2), 0.5 * ROOM, (channels, height // 2, width // 2)
    else:
        layer, shape = nn.BatchNorm2d(channels, **_WIDE), (channels, height, width)
        variance = layer.get_buffer("running_var").uniform_(0.5, 2.0)
        constant = float((variance + layer.eps).rsqrt().max()) * ROOM
    w.write(f"{w.part('image', layer)}({value.name})", shape, value.constants * constant, value)
    return None


def shared(w: Writer) -> None:
    """One module applied twice, one time after the other."""
    value = w.pick(1)
    layer = nn.Linear(value.shape[0], value.shape[0], **_WIDE)
    name, norm = w.part("shared", layer), norm_of(layer.weight)
    text = w.draw.choice((f"{name}(F.relu({name}({value.name})))", f"{name}({name}({value.name}))"))
    w.write(text, value.shape, value.constants * norm**2, value)


def loop(w: Writer) -> None:
    """A loop over a list of modules, or over a range."""
    value, name = w.pick(1), w.fresh("h")
    layers = nn.ModuleList(nn.Linear(value.shape[0], value.shape[0], **_WIDE) for _ in range(w.draw.randint(1, 3)))
    held = w.part("layers", layers)
    residual = w.draw.random() < 0.5
    w.lines.append(f"{name} = {value.name}")
    heads = (f"for layer in {held}:", f"for k, layer in enumerate({held}):")
    w.lines.append(w.draw.choice(heads))
    step = w.draw.choice((f"{name} = {name} + torch.relu(layer({name}))", f"{name} = layer({name}) + {name}"))
    w.lines.append("    " + (step if residual else f"{name} = torch.relu(layer({name}))"))
    found: Tensor = value.constants.clone()
    for layer in layers:
        norm = norm_of(layer.get_parameter("weight"))
        first_is_layer = step.endswith(f"+ {name}")
        factors = (1.0 + norm, norm if first_is_layer else 1.0, 1.0 + norm) if residual else (norm,) * 3
        found = found * torch.tensor(factors, dtype=torch.float64, device="cpu")
    w.values.append(Value(name, value.shape, found))


def attribute_branch(w: Writer) -> None:
    """Python control flow on an attribute."""
    value, name = w.pick(), w.fresh("h")
    flag, number = w.draw.random() < 0.5, abs(w.number())
    test = w.attribute("flag", flag)
    w.lines += [f"if {test}:", f"    {name} = {number} * {value.name}", "else:", f"    {name} = {value.name}"]
    w.values.append(Value(name, value.shape, value.constants * (number if flag else 1.0)))


def sequential(w: Writer) -> None:
    """A chain of torch's."""
    value = w.pick(1)
    layers = [nn.Linear(value.shape[0], 4, **_WIDE), nn.Linear(4, value.shape[0], **_WIDE)]
    name = w.part("chain", nn.Sequential(layers[0], nn.ReLU(), layers[1]))
    factor = math.prod(norm_of(layer.weight) for layer in layers)
    w.write(f"{name}({value.name})", value.shape, value.constants * factor, value)


ALLOWED: tuple[Statement, ...] = (
    linear, linear, equilibrium, orthogonal, activation, activation, branches, branches, weighted, in_place, constants, constants,
    tensor_constants, tensor_constants, flattened, image_map, image_map, shared, loop, attribute_branch, sequential,
)  # fmt: skip
