"""The elements that each thread owns, checked exhaustively, because the arithmetic is plain C++."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ was not found")
def test_every_element_belongs_to_exactly_one_thread_and_lies_where_its_strides_say(tmp_path):
    program = tmp_path / "partition_walk"
    source = Path(__file__).with_name("partition_walk.cpp")
    subprocess.run(
        ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", source, "-o", program], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
