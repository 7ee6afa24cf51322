"""HTTP at the byte level: connections, framing, limits and problem answers, for the public and the management port."""
