"""The recipes of each paper."""
