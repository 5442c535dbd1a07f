# shellcheck shell=bash
# NCCL over InfiniBand. Before sbatch, which hands its environment on: source slurm/env/nccl_infiniband.sh

# Fail where InfiniBand is not usable, instead of going on over TCP at a tenth of the speed.
export NCCL_NET=IB
# The interface where ranks meet before InfiniBand takes over; else the first one that is up, which may lead nowhere.
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-ib0}
# The same for collectives on CPUs: checkpoints, and the agreement to stop.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$NCCL_SOCKET_IFNAME}
# A lost packet is waited for 4.096 us * 2^22 = 17 s, so that a link that flaps or a switch that fails over ends no job.
export NCCL_IB_TIMEOUT=22
# Data workers are forked; before Linux 5.12 a fork corrupts memory that the adapter has registered.
export RDMAV_FORK_SAFE=1
# Say why a connection failed.
export NCCL_DEBUG=WARN
# Nodes whose adapters are partly Ethernet: name the others, e.g. export NCCL_IB_HCA=mlx5_0,mlx5_1
