"""Upper bounds of Lipschitz constants, one theorem a file."""
