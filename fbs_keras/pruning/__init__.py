"""Channels that go for good: network slimming, and what gates never choose."""
