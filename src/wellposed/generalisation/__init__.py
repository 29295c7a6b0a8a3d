"""Bounds on the error of a network on inputs that nobody has seen: PAC-Bayes, published and tightened."""
