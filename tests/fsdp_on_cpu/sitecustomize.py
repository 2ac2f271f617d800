"""For tests: Accelerate's FSDP on CPUs. With this folder on PYTHONPATH every Python that starts reads this file.

Accelerate divides with torch's `fully_shard`, which runs on CPUs too; only its choice of FSDP is made for GPUs alone.
"""

import os

if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def choose_fsdp(self, *arguments, fsdp_plugin=None, **named):
        original(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = choose_fsdp
