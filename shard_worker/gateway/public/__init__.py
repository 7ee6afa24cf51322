"""The public port: the chat API, from the request to the owner and back."""
