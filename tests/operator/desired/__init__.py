"""What the operator creates."""
