"""Mutation testing of the pure modules: how many small changes of the code their own tests notice."""
