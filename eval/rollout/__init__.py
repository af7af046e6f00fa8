"""Episodes of simulated robots as LeRobot datasets: an expert's demonstrations, or what a policy did."""
