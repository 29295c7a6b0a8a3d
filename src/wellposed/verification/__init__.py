"""Verification of single inputs: is every point of a ball or box around one classified alike?"""

from wellposed.verification.verifier import LADDER, Verdict, Verifier

__all__ = ["LADDER", "Verdict", "Verifier"]
