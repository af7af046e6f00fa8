"""What became of the time of a run, from the files that its processes left (`train.events`)."""
