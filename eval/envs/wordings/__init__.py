"""What each suite's tasks ask for, by task and by use: sentences for training, others held out for evaluation."""
