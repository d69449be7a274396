"""Commands about traces, replays, models and plans: options and formats around the code that works."""
