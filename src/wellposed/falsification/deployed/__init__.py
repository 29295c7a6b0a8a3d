"""Certificates of deployed files under attack: everything in the three files is changed and sealed anew, as a forger does."""
