"""One thread per test process: two workers share two cores, and spinning threads of one would stall the other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in [n for n in os.environ if n.startswith(("CAPTIONLAB_", "MLFLOW_TRACKING", "DVC_"))]:
    del os.environ[name]
