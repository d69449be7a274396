"""Live plans: batches nominated, plans applied, gates swept."""
