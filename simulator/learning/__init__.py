"""``ullage train`` and ``ullage evaluate``: samples, fits, and how good they are."""
