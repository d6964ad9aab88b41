#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-8%9
#SBATCH --constraint='a100&nvlink'
#SBATCH --cpus-per-task=1
#SBATCH --exclude='n[1-3]'
#SBATCH --exclusive
#SBATCH --job-name=mac-bench-small
#SBATCH --mem=4096MB
#SBATCH --nice=50
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/scratch/me/runs/jobs/20300102-030405-abcd/log/%A_%a_0_log.out
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=60

# setup
export PYTHONSAFEPATH=1 PYTHONPATH=/scratch/me/runs/code/c0de${PYTHONPATH:+:$PYTHONPATH}:"$PWD"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /scratch/me/runs/jobs/20300102-030405-abcd/log/%A_%a_%t_log.out --cpus-per-task=1 PYTHON -u -m submitit.core._submit /scratch/me/runs/jobs/20300102-030405-abcd/log
