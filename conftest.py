"""For every test: one torch thread.

Tests work on small tensors, where a second thread gives nothing, and on a busy machine torch's threads
spin while they wait for each other. Tests about threads set their own number.
"""

import os

import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
