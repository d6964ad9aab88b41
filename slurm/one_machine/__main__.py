"""`python -m slurm.one_machine` starts and stops a SLURM on this machine."""

from slurm.one_machine.cli import main

if __name__ == "__main__":
    main()
