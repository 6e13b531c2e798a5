"""Kernels of notebooks that begin with torch and the packages imported: else each page waits for that.

One process imports them and waits. For every page it makes a copy of itself, in which the kernel runs, so
that pages share no names and no state. Where processes cannot be copied, kernels start as usual.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLACE = "HLTM_WARM_KERNELS"  # the socket of the process that waits


def serve(path):
    """Import what pages need, then copy this process for each kernel that is asked for."""
    import ipykernel.kernelapp
    import pandas  # noqa: F401

    import dualnets
    import hltm

    # parts are imported when their names are used
    _ = dualnets.train, dualnets.run, hltm.LatentTree, hltm.probe.measure, hltm.export
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for kernels that have ended
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    while True:
        connection, _ = server.accept()
        asked = json.loads(connection.makefile().readline())
        if os.fork() == 0:
            break
        connection.close()  # the copy keeps it open until it ends
    server.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    connection.sendall(f"{os.getpid()}\n".encode())
    # it has a parent, with which it ends, and no terminal whose reader might want to know how to end it
    options = ["--IPKernelApp.parent_handle=1", "--log-level=40"]
    ipykernel.kernelapp.launch_new_instance(argv=["-f", asked["file"], *options])


def start(file):
    """Stand for the kernel with this connection file: pass signals on to it, and end with it."""
    asked = {"file": file, "folder": os.getcwd(), "environment": dict(os.environ)}
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[PLACE])
    connection.sendall(f"{json.dumps(asked)}\n".encode())
    kernel = int(connection.makefile().readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda given, _: os.kill(kernel, given))
    connection.recv(1)


def begin(app):
    """Start the process that waits, and let Jupyter's kernel `python3` be a copy of it."""
    if not hasattr(os, "fork"):
        return
    home = tempfile.TemporaryDirectory()
    path = Path(home.name, "socket")
    process = subprocess.Popen([sys.executable, __file__, "serve", path])
    spec = Path(home.name, "kernels", "python3", "kernel.json")
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, __file__, "start", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    os.environ |= {PLACE: str(path), "JUPYTER_PATH": home.name}

    def end(app, exception):
        process.kill()
        process.wait()
        home.cleanup()

    app.connect("build-finished", end)
    while not path.exists():
        time.sleep(0.05)
        if process.poll() is not None:
            raise RuntimeError("the process that imports what pages need has ended")


def setup(app):
    app.connect("builder-inited", begin)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    {"serve": serve, "start": start}[sys.argv[1]](sys.argv[2])
