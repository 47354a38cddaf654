"""The published images: how they are made, and what must be true of them."""
