"""Run one `dvc` command in a process that ends with the process that started it.

In `python -m captionlab.running.job PID repro -s train@merge`, PID is the starter. DVC gives its
own process id to the stage, which ends as soon as that process is gone. A run that is killed
therefore leaves no process behind.
"""

import os
import signal
import sys
import threading
import time

# Seconds between two checks of the starter.
INTERVAL = 0.5


def main() -> int:
    """Run `dvc`, and return its exit status."""
    starter, *command = sys.argv[1:]
    threading.Thread(target=_watch, args=(int(starter),), daemon=True).start()
    sys.argv = ["dvc", *command]  # DVC writes it beside the paths that it locks
    from dvc.cli import main as dvc

    return int(dvc(command))


def _watch(starter: int) -> None:
    import psutil

    try:
        process = psutil.Process(starter)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(INTERVAL)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # the stage notices this and ends


if __name__ == "__main__":
    sys.exit(main())
