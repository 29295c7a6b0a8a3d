"""Steps of a network, and the chain of blocks that they are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from wellposed.network.branches import Branches, Place


@dataclass(frozen=True)
class Step:
    """One block or sum of a traced network.

    Attributes:
        name: unique in the network.
        block: the module; None for a sum.
        sources: places of the steps that it takes its inputs from; −1 is the network's input.
        signs: of the terms of a sum.
    """

    name: str
    block: nn.Module | None
    sources: tuple[int, ...]
    signs: tuple[float, ...] = ()


def chain_of(found: tuple[list[Step], int]) -> list[tuple[str, nn.Module]]:
    """The steps as a chain: between two places that everything passes through, one block, or branches."""
    steps, output = found
    needed, stack = {output}, [output]
    while stack:
        place = stack.pop()
        for source in steps[place].sources if place >= 0 else ():
            if source >= 0 and source not in needed:
                needed.add(source)
                stack.append(source)
    order = sorted(place for place in needed if place >= 0)
    last_use = {source: place for place in order for source in steps[place].sources}
    chain: list[tuple[str, nn.Module]] = []
    begin, held, group = -1, -1, []
    for place in order:
        group.append(place)
        held = max(held, *(last_use.get(source, -1) for source in (begin, *group[:-1]) if source != place))
        if held <= place:  # everything up to here is used up, but for the value of this step
            chain.append(_block(steps, group, begin))
            begin, held, group = place, -1, []
    return chain


def _block(steps: list[Step], group: list[int], begin: int) -> tuple[str, nn.Module]:
    first = steps[group[0]]
    if len(group) == 1 and first.block is not None:
        return first.name, first.block
    places = {begin: -1} | {place: index for index, place in enumerate(group)}
    inner = [
        Place(steps[place].name, tuple(places[source] for source in steps[place].sources), steps[place].signs)
        for place in group
    ]
    return steps[group[-1]].name, Branches(inner, [steps[place].block for place in group])
