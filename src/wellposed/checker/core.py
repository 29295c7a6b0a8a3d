"""Checks a certificate file against a weight file, without the library that wrote it: numpy and safetensors only.

    python -m checker CERTIFICATE.json WEIGHTS.safetensors

A certificate names the blocks of a chain, a claimed Lipschitz constant for each, for all of them, and for every class margin.
The evidence beside it holds the numbers that run and what proves the constants. This program checks digests; that the numbers are
what the weights give, up to the rounding of their precision; every proof, again, by its own means; and that the claims follow. It
trusts that the model is the chain of blocks that is named, evaluated by their definitions, with the numbers of the evidence.
Kinds of blocks have modules of their own, of which only those that a certificate needs are loaded.
"""

import math
import sys
from pathlib import Path

from .accounting import check_accounting
from .case import Block, Case, module_of
from .conclusion import check_conclusion, check_lower_bound
from .proofs import Refuted, norm_at_most, real


class Checker(Case):
    """All checks of one certificate with its evidence, and of the weights that it should be about."""

    def run(self) -> list[str]:
        """Check everything.

        Returns:
            What was done, line by line.

        Raises:
            Refuted: the first check that fails.
        """
        try:
            self.check_digests()
            check_accounting(self)
            for place, block in enumerate(self.blocks):
                self.check_block(place, block)
            self.check_joint()
            check_conclusion(self)
            check_lower_bound(self)
        except Refuted:
            raise
        except Exception as error:
            raise Refuted("structure", f"{type(error).__name__}: {error}") from error
        return self.log

    def check_block(self, place: int, block: Block) -> None:
        """The constant of one block holds; the block that a joint bound covers needs none of its own."""
        if self.norm != "2" and block["value"] is None:
            return
        value, name, kind, joint = real(block["value"]), block["name"], block["kind"], self.claim["joint"]
        if self.norm != "2" or value < 0.0:
            raise Refuted("block", f"{name}: the constant {value!r} is none")
        if kind == "nonexpansive":
            good = value >= 1.0
        elif kind == "normalize":
            std = self.getter(block)("std")
            good = bool((std > 0.0).all()) and value >= math.nextafter(1.0 / float(std.min()), math.inf)
        elif kind == "linear":
            good = norm_at_most(self.getter(block)("weight"), value)
        elif joint is not None and joint["place"] == place and hasattr(module_of(block), "joint"):
            self.log.append(f"block {name}: its own constant is not used, as the joint bound covers it")
            return
        else:
            good = module_of(block).prove(self, place, value)
        if not good:
            raise Refuted("block", f"{name}: the constant {value!r} of this {block['class']} is not proved")
        self.log.append(f"block {name}: {block['class']}, {value:.9g}")

    def check_joint(self) -> None:
        """The constants of the last layer together with its head hold, for all outputs and for every pair of them."""
        joint = self.claim["joint"]
        if joint is None:
            return
        place = joint["place"]
        if type(place) is not int or not 0 <= place < len(self.blocks):
            raise Refuted("joint", f"{place!r} is no place of an equilibrium layer")
        known, kind = module_of(self.blocks[place]), self.blocks[place]["kind"]
        if not hasattr(known, "joint") or (self.norm != "2" and kind != "equilibrium"):
            raise Refuted("joint", f"{place!r} is no place of an equilibrium layer")
        known.joint(self, place)


def main(arguments: list[str]) -> int:
    """The command: 0 if the certificate holds, 1 if a check failed, 2 for wrong usage."""
    if len(arguments) != 2:
        print("usage: wellposed verify CERTIFICATE.json WEIGHTS.safetensors", file=sys.stderr)
        return 2
    try:
        checker = Checker(Path(arguments[0]), Path(arguments[1]))
        for line in checker.run():
            print(f"ok  {line}")
    except Refuted as failure:
        print(f"FAILED  {failure}")
        return 1
    for line in checker.unchecked:
        print(f"NOT CHECKED  {line}")
    print("the certificate holds" + (", but for what was not checked" if checker.unchecked else ""))
    return 0
