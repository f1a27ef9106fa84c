"""Caches of a GPU, driven by the addresses that sampled thread blocks touch: what attention finds in them."""
