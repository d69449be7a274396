"""Live learning: usage and lifetimes in, knowledge, reclaimed capacity and requests out."""
