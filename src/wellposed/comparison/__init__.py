"""Published bounds of explicit and unrolled networks, to compare certificates with."""
