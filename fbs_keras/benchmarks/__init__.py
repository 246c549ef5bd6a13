"""How fast files run: interleaved timing, here or on a phone, and the suites of the documentation."""
