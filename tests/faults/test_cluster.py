"""Workers that die, wait, lie and have other versions: a run ends right or with one error, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import compressor
from tests.faults import clusters
from tests.faults.clusters import Worker, driver, started, until
from tests.faults.commands import check_refusal, snapshot

pytest.importorskip("distributed")

PROGRESS = {"dashboard", "detect", "compress", "verify"}
TREE = Path(compressor.__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clusters.model(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def expected(model: Path) -> dict[str, object]:
    compressor.compress(model, model.with_name("here"))
    return dict(snapshot(model.with_name("here")))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What the workers share with the driver."""
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def compressed(model: Path, shared: Path, *workers: Worker) -> tuple[int, str, str]:
    with started(shared.with_name("cluster"), *workers) as cluster:
        command = driver("compress", str(model), str(shared / "out"), "--scheduler", cluster.address)
        stdout, stderr = command.communicate(timeout=120)
    return command.returncode, stdout, stderr


@pytest.mark.parametrize(
    "workers",
    [
        pytest.param([Worker()], id="one"),
        pytest.param([Worker()] * 3, id="three"),
        pytest.param([Worker("slow"), Worker()], id="one of two is slow"),
        pytest.param([Worker("killed once"), Worker()], id="one of two is killed"),
        pytest.param([Worker("killed once", nanny=True)], id="the only one is killed, and started again"),
    ],
)
def test_the_artefact_is_the_same(
    model: Path, expected: dict[str, object], shared: Path, workers: Sequence[Worker]
) -> None:
    code, stdout, stderr = compressed(model, shared, *workers)
    assert code == 0, stderr
    assert "times smaller than dense" in stdout
    lines = stderr.splitlines()
    assert lines[0].startswith("dashboard: http://")
    assert [line.partition(":")[0] for line in lines[1:]] == ["detect", "compress", "verify"]
    assert snapshot(shared / "out") == expected
    assert [path.name for path in shared.iterdir()] == ["out"]
    killed = any(worker.harm == "killed once" for worker in workers)
    assert (shared.with_name("cluster") / "flag").exists() == killed


def test_a_worker_that_is_given_up_and_wakes_up_late(model: Path, expected: dict[str, object], shared: Path) -> None:
    """Another one has done its task, and the run is over: what it writes goes nowhere."""
    with started(shared.with_name("cluster"), Worker("frozen once"), Worker("slow"), patience="4s") as cluster:
        command = driver("compress", str(model), str(shared / "out"), "--scheduler", cluster.address)
        _, stderr = command.communicate(timeout=90)
        assert cluster.flag.exists()
        cluster.workers[0].send_signal(signal.SIGCONT)
        time.sleep(2)  # in which it goes on
    assert command.returncode == 0, stderr
    assert snapshot(shared / "out") == expected
    assert [path.name for path in shared.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("workers", "says"),
    [
        pytest.param([Worker("lies"), Worker("lies")], "a worker has returned a damaged result", id="a result"),
        pytest.param(
            [Worker("turns values"), Worker("turns values")], "what workers wrote of it is damaged", id="a weight"
        ),
        pytest.param([Worker("full"), Worker()], "File too large, on the worker on", id="a disk that fills on one"),
        pytest.param(
            [Worker("killed", nanny=True)], "the executor has failed: Attempted to run task", id="always killed"
        ),
    ],
)
def test_one_error_says_what_is_wrong(model: Path, shared: Path, workers: Sequence[Worker], says: str) -> None:
    check_refusal(*compressed(model, shared, *workers), status=1, says=says)
    assert list(shared.iterdir()) == []


def test_a_file_system_that_is_full(model: Path, shared: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", shared], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        ended = compressed(model, shared, Worker(), Worker())
        check_refusal(*ended, status=1, says=f"No space left on device, on the worker on {socket.gethostname()}")
        assert f"error: {shared}/.compressor-out-" in ended[2]
        assert list(shared.iterdir()) == []
    finally:
        subprocess.run(["umount", shared], check=True)


def test_a_worker_with_other_code(model: Path, shared: Path) -> None:
    shutil.copytree(TREE, shared.with_name("other") / "compressor", ignore=shutil.ignore_patterns("__pycache__"))
    with (shared.with_name("other") / "compressor" / "errors.py").open("a") as file:
        file.write("# another version\n")
    ended = compressed(model, shared, Worker(path=str(shared.with_name("other"))))
    check_refusal(*ended, status=1, says="has other code of compressor 0.1.0. Install on every worker")
    assert "error: the worker tcp://" in ended[2]
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("hidden", ["shared", "model"])
def test_a_worker_that_sees_another_file_system(model: Path, shared: Path, hidden: str) -> None:
    """It has something else mounted where the driver has what it reads or writes."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    folder = shared if hidden == "shared" else model.parent
    mounted = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs tmpfs "{folder}" && exec "$@"', "sh"]
    says = f"sees no {shared} that others write to" if hidden == "shared" else f"cannot see {model}"
    ended = compressed(model, shared, Worker(before=mounted))
    check_refusal(*ended, status=1, says=says)
    assert "The file system must be the same, at the same paths, on every worker." in ended[2]
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("what", ["scheduler", "worker", "driver"])
def test_what_dies_in_the_middle(model: Path, shared: Path, what: str) -> None:
    with started(shared.with_name("cluster"), Worker("waits")) as cluster:
        main = f"from compressor.stages import cluster; cluster.ANOTHER_SECONDS = 2; {clusters.MAIN}"
        command = driver("compress", str(model), str(shared / "out"), "--scheduler", cluster.address, main=main)
        until(cluster.flag.exists)
        if what == "driver":
            command.send_signal(signal.SIGTERM)
        else:
            (cluster.scheduler if what == "scheduler" else cluster.workers[0]).kill()
        stdout, stderr = command.communicate(timeout=60)
    assert list(shared.iterdir()) == []
    if what == "driver":
        assert (command.returncode, stdout) == (128 + signal.SIGTERM, "")
    else:
        says = {"scheduler": "its scheduler is gone", "worker": "its workers have gone, and none has come within 2 s"}
        check_refusal(command.returncode, stdout, stderr, status=1, says=says[what])


def test_nobody_answers_and_nobody_comes(model: Path, shared: Path) -> None:
    main = (
        f"from compressor.stages import cluster; cluster.WORKER_SECONDS = cluster.ANSWER_SECONDS = 1; {clusters.MAIN}"
    )
    command = driver("compress", str(model), str(shared / "out"), "--scheduler", "tcp://127.0.0.1:9", main=main)
    stdout, stderr = command.communicate(timeout=60)
    check_refusal(command.returncode, stdout, stderr, status=1, says="no Dask scheduler answers there within 1 s")
    with started(shared.with_name("cluster")) as cluster:
        command = driver("compress", str(model), str(shared / "out"), "--scheduler", cluster.address, main=main)
        stdout, stderr = command.communicate(timeout=60)
    check_refusal(command.returncode, stdout, stderr, status=1, says="no worker has come within 1 s")
    assert list(shared.iterdir()) == []


def test_workers_of_this_machine(model: Path, expected: dict[str, object], shared: Path) -> None:
    command = driver("compress", str(model), str(shared / "out"), "--scheduler", "local")
    _, stderr = command.communicate(timeout=120)
    assert command.returncode == 0, stderr
    assert snapshot(shared / "out") == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_of_a_command(model: Path, shared: Path, number: signal.Signals) -> None:
    """Workers of this machine leave it to the command to end them: they say nothing."""
    main = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {clusters.MAIN}"
    command = driver("compress", str(model), str(shared / "out"), "--scheduler", "local", main=main)
    until(lambda: any(shared.iterdir()))
    os.killpg(command.pid, number)
    stdout, stderr = command.communicate(timeout=60)
    assert (command.returncode, stdout) == (128 + number, "")
    told = ["error: interrupted; nothing was left half-written"] if number == signal.SIGINT else []
    assert [line for line in stderr.splitlines() if line.partition(":")[0] not in PROGRESS] == told
    assert list(shared.iterdir()) == []


def test_what_is_no_scheduler(model: Path, shared: Path) -> None:
    for arguments, says in (
        (["--scheduler", "head"], "expected local, or the address of a Dask scheduler"),
        (["--scheduler", "local", "--dry-run"], "leave --scheduler out"),
    ):
        command = driver("compress", str(model), str(shared / "out"), *arguments)
        stdout, stderr = command.communicate(timeout=60)
        check_refusal(command.returncode, stdout, stderr, status=2, says=says)
    main = f"import sys; sys.modules['distributed'] = None; {clusters.MAIN}"
    command = driver("compress", str(model), str(shared / "out"), "--scheduler", "local", main=main)
    says = "--scheduler needs Dask: pip install 'compressor[dask]'"
    check_refusal(command.wait(60), *command.communicate(), status=1, says=says)
    assert list(shared.iterdir()) == []
