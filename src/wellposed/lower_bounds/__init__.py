"""Lower bounds of Lipschitz constants: pairs of inputs whose outputs are provably far apart."""
