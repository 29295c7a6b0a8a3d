"""Speed against named rivals: accuracy first, then times in turns; records, and the page and pictures that are made from them."""
