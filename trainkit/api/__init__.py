"""Jobs, seen from outside: starting them, finding them, reading, driving and repeating them."""
