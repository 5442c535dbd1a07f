"""What a process of a real job takes itself for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cluster import Cluster, wait_until

SAYS = """
from mmtrain import distributed
print(distributed.started_by_srun(), distributed.rank(), flush=True)
"""
SCRIPT = f"""#!/bin/bash
python={sys.executable}
$python says.py >batch
srun --nodes=1 --ntasks=1 $python says.py >shell
$python -m torch.distributed.run --standalone --nproc-per-node=2 says.py 2>/dev/null | sort >torchrun
srun $python says.py | sort >srun
touch finished
"""


@pytest.mark.slow
def test_only_what_srun_started_side_by_side_is_its_rank(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "says.py").write_text(SAYS)
    (tmp_path / "job.sh").write_text(SCRIPT)
    cluster.submit("--nodes=2", "--ntasks-per-node=1", "job.sh", cwd=tmp_path, MASTER_ADDR="127.0.0.1")
    wait_until((tmp_path / "finished").exists, "the job ends", 120)
    said = {name: (tmp_path / name).read_text().split() for name in ("batch", "shell", "torchrun", "srun")}
    assert said == {
        "batch": ["False", "0"],
        "shell": ["False", "0"],
        "torchrun": ["False", "0", "False", "1"],
        "srun": ["True", "0", "True", "1"],
    }
