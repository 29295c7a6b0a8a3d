"""Models, files and judges of this repository's own tests; what others' tests can use is in wellposed.testing."""
