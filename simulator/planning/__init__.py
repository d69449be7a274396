"""Plans in replays, on recorded clusters and on committed instances."""
