"""``ullage reproduce``: published results and our own goals, each by one command."""
