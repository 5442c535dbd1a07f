# shellcheck shell=bash
# The same bits from the same job on the same kind of machine. Before sbatch: source slurm/env/deterministic.sh
# mmtrain draws nothing from the environment; what is left is how libraries order their sums.

# cuBLAS gives the same result in each run only with a fixed workspace (NVIDIA, cuBLAS: Results Reproducibility).
export CUBLAS_WORKSPACE_CONFIG=:4096:8
# NCCL chooses the order of a sum by size and topology; a ring on one protocol has one order for a given set of nodes.
export NCCL_ALGO=Ring
export NCCL_PROTO=Simple
# A sum on a CPU is split over threads.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# MKL chooses its code by the kind of CPU, and nodes differ.
export MKL_CBWR=AVX2,STRICT
