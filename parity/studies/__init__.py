"""What a command does beyond one check."""
