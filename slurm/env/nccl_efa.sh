# shellcheck shell=bash
# NCCL over AWS EFA, by the aws-ofi-nccl plugin. Before sbatch, which hands its environment on: source slurm/env/nccl_efa.sh

# Fail where the plugin is not found, instead of going on over TCP.
export NCCL_NET="AWS Libfabric"
export FI_PROVIDER=efa
# GPUs read and write the adapter's memory themselves (p4d, p5); without it all goes through the host's memory.
export FI_EFA_USE_DEVICE_RDMA=1
# Data workers are forked; without it libfabric ends a process that forks.
export FI_EFA_FORK_SAFE=1
# The interface where ranks meet must not be the container bridge, which has the same address on all nodes.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker}
# Say why a connection failed.
export NCCL_DEBUG=WARN
