"""Numbers that can be relied on: norms and eigenvalues proved in floating point, outward rounding, norms by name."""
