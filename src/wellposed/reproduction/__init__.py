"""The published figures and tables: one recipe each, spread over processes, recorded, and rendered into pages."""
