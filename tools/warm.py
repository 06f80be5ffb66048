"""Kernels that need not import the slow packages again: one Python has done it, and forks itself for each page.

`start(environment)` begins such a Python and gives the command that a kernel is started with. What belongs to
this project is imported by every page itself, and so is matplotlib, which looks for a kernel when it is imported.
"""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start(environment: dict[str, str]) -> tuple[subprocess.Popen | None, list[str]]:
    "The Python that forks, and the command of a kernel; without the first where a fork of so many libraries is not safe."
    if sys.platform != "linux": return None, [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
    place = Path(tempfile.mkdtemp()) / "kernels"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()
    process = subprocess.Popen([sys.executable, __file__, "serve", str(listener.fileno())], env=environment,
                               pass_fds=[listener.fileno()], start_new_session=True)
    listener.close()
    return process, [sys.executable, "-S", "-E", __file__, "kernel", str(place), "-f", "{connection_file}", "--log-level=ERROR"]


def serve(listener: socket.socket) -> None:
    "Import, then answer each connection with a fork that becomes a kernel."
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel reads it once, and ends when that process does
    import accelerate, datasets, evaluate, ipykernel.kernelapp, pandas, scipy.stats, sklearn.metrics, torch, transformers.trainer
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, TrainingArguments
    from transformers.utils.notebook import NotebookProgressCallback
    # These two look, when they are imported, whether they are in a kernel
    pandas.set_option("display.max_columns", 20)
    transformers.trainer.DEFAULT_PROGRESS_CALLBACK = NotebookProgressCallback
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        connection, _ = listener.accept()
        words, descriptors, _, _ = socket.recv_fds(connection, 1_000_000, 3)
        if os.fork():
            connection.close()
            for descriptor in descriptors: os.close(descriptor)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        become_kernel(json.loads(words), descriptors, connection)


def become_kernel(told: dict, descriptors: list[int], connection: socket.socket) -> None:
    "In the fork: what a fresh Python would have found, and then a kernel."
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    sys.argv = ["ipykernel_launcher", *told["words"]]
    connection.sendall(str(os.getpid()).encode() + b"\n")
    from ipykernel.kernelapp import IPKernelApp
    sys.path[0] = ""  # as `python -m` has it
    IPKernelApp.launch_instance()
    os._exit(0)


def kernel(place: str, words: list[str]) -> None:
    "What is started in the place of a kernel: asks for one, passes signals on, and ends with it."
    environment = {name: value for name, value in os.environ.items() if name != "JPY_PARENT_PID"}  # that of the fork is another
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        socket.send_fds(connection, [json.dumps(dict(folder=os.getcwd(), environment=environment, words=words)).encode()], [0, 1, 2])
        process = int(connection.makefile().readline())
        for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, lambda number, frame: os.kill(process, number))
        connection.recv(1)  # nothing comes until the kernel has ended


if __name__ == "__main__":
    if sys.argv[1] == "serve": serve(socket.socket(fileno=int(sys.argv[2])))
    else: kernel(sys.argv[2], sys.argv[3:])
