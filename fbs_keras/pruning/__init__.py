"""Removes channels for good: network slimming, and what gates never choose."""
