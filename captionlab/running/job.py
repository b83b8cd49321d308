"""One `dvc` command as a process that ends with the process that started it.

`python -m captionlab.running.job PID repro -s train@merge`: PID is the starter. DVC gives its own
process id to the stage, which ends as soon as that process is gone, so a run that is killed leaves
nothing behind.
"""

import os
import signal
import sys
import threading
import time

INTERVAL = 0.5
"seconds between two looks at the starter"


def main() -> int:
    """The exit status of `dvc`."""
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
    os.kill(os.getpid(), signal.SIGKILL)  # the stage sees it and ends


if __name__ == "__main__":
    sys.exit(main())
