"""What is replayed: readers of recorded traces, makers of synthetic ones, and the native format."""
