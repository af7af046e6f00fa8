"""`python -m train.launch`: one training command as many processes, on this machine, SLURM, Kubernetes or TPU VMs."""
