"""Test cases to inherit: a new solver, operator or layer gives a few hooks and gets every check."""
