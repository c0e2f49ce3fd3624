"""An update as a vector of words in the ring Z/2^B, and back: names, grid, packed bits."""
