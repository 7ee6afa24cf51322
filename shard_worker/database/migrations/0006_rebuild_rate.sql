-- The most events a second that a generation of the read model is filled with, over all workers; without one, what the workers take.
ALTER TABLE readmodel_generation ADD COLUMN rate integer CHECK (rate > 0);
