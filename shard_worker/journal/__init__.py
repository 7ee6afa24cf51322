"""The journal: how events become durable, how they are read back, and how the whole of it is checked."""
