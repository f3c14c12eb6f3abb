"""What is trained on: `images` (found and read), `pool` (drawn from), `noise` (what is in them)."""
