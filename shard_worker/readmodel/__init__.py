"""The read model: a fold of the journal in tables, from which lists over threads, texts and marks are answered."""
