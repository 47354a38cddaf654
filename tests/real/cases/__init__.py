"""The cases of the real-parts suite, one module per topic."""
