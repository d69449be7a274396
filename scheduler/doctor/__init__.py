"""``ullage doctor``: facts, rules over them, and live probes."""
