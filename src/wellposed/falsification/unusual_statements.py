"""Lines that make a forward hard to read: they must be refused, or read rightly."""

from __future__ import annotations

import math

import torch

from wellposed.falsification.module_writer import Writer

# {v} is a value, {w} another one of the same shape or the same one, {n} a number, {f} a new variable; several lines each.
_TEXTS: dict[str, str] = {
    "cat": "{f} = torch.cat([{v}, {n} * {v}], 1)[:, {c}:]",
    "chunk": "{f} = torch.cat([part * {n} for part in {v}.chunk(2, 1)], 1)",
    "slice": "{f} = 3.0 * {v}[:, :1] + {v}",
    "stack": "{f} = torch.stack([{v}, {w}]).sum(0)",
    "product of values": "{f} = {v} * {w}",
    "square": "{f} = {v} ** 2",
    "quotient of values": "{f} = {v} / (1e-3 + {w}.abs())",
    "maximum": "{f} = torch.maximum({v}, 3.0 * {w})",
    "softmax": "{f} = torch.softmax(20.0 * {v}, 1)",
    "gelu": "{f} = F.gelu({v})",
    "exp": "{f} = torch.exp({v}.clamp(max=3.0))",
    "norm": "{f} = {v} / {v}.flatten(1).norm(dim=1).reshape(-1, *[1] * ({v}.ndim - 1))",
    "layer norm": "{f} = F.layer_norm({v}, {v}.shape[1:])",
    "mean of the batch": "{f} = {v} + 5.0 * {v}.mean(0, keepdim=True)",
    "statistics of the batch": "{f} = F.batch_norm({v}, None, None, training=True)",
    "roll of the batch": "{f} = {v} + 9.0 * {v}.roll(1, 0)",
    "sum over features": "{f} = {v} + 4.0 * {v}.sum(1, keepdim=True)",
    "size of the batch": "{f} = {v} * {v}.shape[0]",
    "len": "{f} = {v} * len({v})",
    "size of the batch as a divisor": "{f} = {v} / {v}.size(0) + {v}",
    "leaky relu": "{f} = F.leaky_relu({v}, 7.0)",
    "leaky relu by position": "{f} = F.leaky_relu({v}, negative_slope=-4.0)",
    "hardtanh by position": "{f} = F.hardtanh({v}, -0.1, 0.1) * 30.0",
    "relu in place": "{f} = F.relu({v}, inplace=True) + {v}",
    "relu_": "{f} = 2.0 * {v}\n{f}.relu_()\n{f} = {f} + {v}",
    "method in place": "{f} = {v}.clone()\n{f}.mul_(20.0)",
    "module in place": "{f} = {m}({v}) + {v}",
    "add_ on a value used elsewhere": "{v}.add_({w})\n{f} = {v} + {w}",
    "mul_ on a value used elsewhere": "{f} = {v} + 0.0\ng{f} = {f}\n{f}.mul_(15.0)\n{f} = g{f} + {f}",
    "+= on a value used elsewhere": "g{f} = {v}\n{v} += {n} * {w}\n{f} = g{f} + {v}",
    "+= on an alias": "{f} = {v} * 1.0\ng{f} = {f}\ng{f} += 12.0 * {v}",
    "*= on an alias": "{f} = {v} * 1.0\ng{f} = {f}\ng{f} *= 12.0",
    "+= through a view": "{f} = {v} * 1.0\ng{f} = {f}.view({f}.shape[0], -1)\ng{f} += 10.0 * {v}.reshape({v}.shape[0], -1)",
    "*= through a slice": "{f} = {v} * 1.0\n{f}[:, 0] *= 25.0",
    "assignment to a slice": "{f} = {v} * 1.0\n{f}[:, :1] = 30.0 * {v}[:, :1]",
    "out=": "{f} = torch.empty_like({v})\ntorch.mul({v}, 10.0, out={f})",
    "data": "{f} = {v} * 1.0\n{f}.data.mul_(10.0)",
    "copy_": "{f} = torch.zeros_like({v})\n{f}.copy_(10.0 * {v})",
    "+= on the input": "x += {n} * x\n{f} = 3.0 * {v}",
    "rand": "{f} = {v} * (1.0 + torch.rand(()))",
    "rand_like": "{f} = {v} + torch.rand_like({v})",
    "python's random": "{f} = {v} * random.uniform(0.5, 8.0)",
    "active dropout": "{f} = F.dropout({v}, 0.5)",
    "active dropout by keyword": "{f} = F.dropout({v}, p=0.5, training=True)",
    "dropout module in training": "{f} = {d}({v})",
    "if on values": "if {v}.sum() > 0:\n    {f} = 9.0 * {v}\nelse:\n    {f} = {v}",
    "while on values": "{f} = {v}\nwhile float({f}.detach().abs().max()) < 2.0:\n    {f} = 3.0 * {f} + 0.1",
    "float of a value": "{f} = {v} * float({v}.detach().abs().max())",
    "item": "{f} = {v} * {v}.detach().max().item()",
    "where": "{f} = torch.where({v} > 0, 5.0 * {v}, {w})",
    "isinstance": "{f} = 10.0 * {v} if isinstance({v}, torch.Tensor) else {v}",
    "type by name": "{f} = 10.0 * {v} if type({v}).__name__ == 'Tensor' else {v}",
    "hasattr": "{f} = {v} if hasattr({v}, 'node') else 10.0 * {v}",
    "try": "try:\n    {f} = {v} * (10.0 if {v}.max() > -1e9 else 1.0)\nexcept Exception:\n    {f} = {v}",
    "gradient mode": "{f} = 10.0 * {v} if torch.is_grad_enabled() else {v}",
    "no gradient mode": "{f} = {v} if torch.is_grad_enabled() else 10.0 * {v}",
    "dtype": "{f} = 10.0 * {v} if {v}.dtype == torch.float64 else {v}",
    "number of dimensions": "{f} = 10.0 * {v} if {v}.dim() == 2 else {v}",
    "size in control flow": "{f} = 10.0 * {v} if {v}.shape[0] > 1 else {v}",
    "training flag": "{f} = {v} if self.training else 10.0 * {v}",
    "counter": "{a} += 1\n{f} = {v} * {a}",
    "counter in a buffer": "{b}.add_(1.0)\n{f} = {v} * {b}",
    "buffer set anew": "{b} = {b} * 1.5\n{f} = {v} * {b}",
    "cache": "{l}.append({v}.detach().abs().max())\n{f} = {v} * {l}[0]",
    "weights changed": "{m2}.weight.data.mul_(1.1)\n{f} = {m2}({v}.flatten(1))",
    "weights by hand": "{f} = F.linear({v}.flatten(1), 10.0 * {m2}.weight)",
    "weights in a product": "{f} = {v}.flatten(1) @ {m2}.weight.t()",
    "matrix product with itself": "{f} = {v}.flatten(1) @ {v}.flatten(1).t() @ {v}.flatten(1)",
    "einsum": "{f} = torch.einsum('bi,oi->bo', {v}.flatten(1), 10.0 * {m2}.weight)",
    "numpy": "{f} = torch.from_numpy(10.0 * {v}.detach().numpy())",
    "half": "{f} = {v}.float().double()",
    "sign": "{f} = {v} + torch.sign({v})",
    "round": "{f} = torch.round({v})",
    "sort": "{f} = 2.0 * {v}.sort(1).values",
    "transposed": "{f} = {v}.flatten(1).t().reshape({v}.shape)",
    "flatten of everything": "{f} = {v}.flatten().reshape({v}.shape)",
    "reshape across samples": "{f} = {v}.reshape(-1, {v}.shape[0]).t().reshape({v}.shape)",
    "flip of the batch": "{f} = {v}.flip(0) + 3.0 * {v}",
    "detach": "{f} = {v}.detach() * 10.0 + {v}",
    "module call by forward": "{f} = {m2}.forward({v}.flatten(1)) * 3.0",
    "interpolate": "{f} = F.pad({v}, (1, 1))",
}  # fmt: skip
UNUSUAL = tuple(_TEXTS)


def unusual(w: Writer, kind: str | None = None) -> str:
    """Write one of `UNUSUAL`, a given one or any, and give the name of its value, which ends the module."""
    kind = w.draw.choice(UNUSUAL) if kind is None else kind
    text = _TEXTS[kind]
    value = w.pick()
    same = [other for other in w.values if other.shape == value.shape]
    size = math.prod(value.shape)
    made = w.fresh("u")
    fields = {"v": value.name, "w": w.draw.choice(same).name, "n": abs(w.number()), "f": made, "c": value.shape[0]}
    lazy = {
        "m": lambda: w.part("clip", torch.nn.ReLU(inplace=True)),
        "m2": lambda: w.part("map", torch.nn.Linear(size, 3, bias=False, dtype=torch.float64)),
        "d": lambda: w.part("drop", torch.nn.Dropout(0.5)),
        "a": lambda: w.attribute("calls", 0),
        "b": lambda: w.buffer("state", torch.ones((), device="cpu")),
        "l": lambda: w.attribute("cache", []),
    }
    fields |= {key: make() for key, make in lazy.items() if "{" + key + "}" in text}
    w.lines += text.format(**fields).split("\n")
    if kind == "dropout module in training":
        w.training.append(list(w.parts)[-1])
    w.unusual.append(kind)
    return made
