"""When splitting pays: a grid of targets, workloads, rates and initial roles in virtual time."""
