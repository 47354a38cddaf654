"""Instructions per request of the whole binary, counted by callgrind and held to a budget."""
