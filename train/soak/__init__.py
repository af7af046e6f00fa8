"""`python -m train.soak`: a run is broken on purpose, again and again, and must end as if it had been left alone."""
