"""What is done with a trained run: certifying it, attacking it, comparing runs, reporting."""
