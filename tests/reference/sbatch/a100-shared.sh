#!/bin/bash

# Parameters
#SBATCH --account=my-project
#SBATCH --array=0-2%3
#SBATCH --cpus-per-task=16
#SBATCH --gres=gpu:a100:1
#SBATCH --job-name=mac-bench-small
#SBATCH --mem=122880MB
#SBATCH --nodes=1
#SBATCH --open-mode=append
#SBATCH --output=/scratch/me/runs/jobs/20300102-030405-abcd/log/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=1440

# setup
module load cuda/12.4
export PYTHONSAFEPATH=1 PYTHONPATH=/scratch/me/runs/code/c0de${PYTHONPATH:+:$PYTHONPATH}:"$PWD"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /scratch/me/runs/jobs/20300102-030405-abcd/log/%A_%a_%t_log.out --cpus-per-task=16 PYTHON -u -m submitit.core._submit /scratch/me/runs/jobs/20300102-030405-abcd/log
