"""The console: one page that shows a cluster live, and the server behind it."""
