"""The published images: how they are built, and what is checked of them."""
