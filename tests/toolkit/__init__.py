"""What tests share: cases, oracles, invented data, and whether there is a compiler."""
