"""Trying to break every certificate: a campaign with random and degenerate networks, changed models and planted faults."""
