"""The first things that people meet: clients generated from the OpenAPI document, in two languages, and a real browser."""
