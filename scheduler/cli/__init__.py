"""Commands about a live cluster: options and formats around the code that works."""
