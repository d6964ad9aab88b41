#!/bin/bash

# Parameters
#SBATCH --array=0-4%5
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterany:7
#SBATCH --job-name=mac-bench-small
#SBATCH --mem=16384MB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/scratch/me/runs/jobs/20300102-030405-abcd/log/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=720

# setup
export PYTHONSAFEPATH=1 PYTHONPATH=/scratch/me/runs/code/c0de${PYTHONPATH:+:$PYTHONPATH}:"$PWD"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /scratch/me/runs/jobs/20300102-030405-abcd/log/%A_%a_%t_log.out --cpus-per-task=4 PYTHON -u -m submitit.core._submit /scratch/me/runs/jobs/20300102-030405-abcd/log
