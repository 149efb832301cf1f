"""A rank that stops or dies must not leave the others waiting, whatever the layout: the job ends with code 6 in time and
says who waits for whom."""
import os
import signal
import subprocess
import time

from harness import Result, Workspace, expect, start

TIMEOUT_S = 4
w = Workspace(count=8)


def ranks_of(out):
    """Process ids by rank."""
    pids = map(int, subprocess.run(["pgrep", "-f", "run.out=" + out], stdout=subprocess.PIPE).stdout.split())
    found = {}
    for pid in pids:
        environ = open(f"/proc/{pid}/environ").read().split("\0")
        for one in environ:
            if one.startswith("OMPI_COMM_WORLD_RANK="):
                found[int(one.split("=")[1])] = pid
    return found


for name, signal_number, layout in (("stopped-pp", signal.SIGSTOP, ["parallel.llm.pp=2"]),
                                    ("stopped-tp", signal.SIGSTOP, ["parallel.llm.tp=2"]),
                                    ("killed-pp", signal.SIGKILL, ["parallel.llm.pp=2"]),
                                    ("killed-cp", signal.SIGKILL, ["parallel.llm.cp=2"]),
                                    ("stopped-sharded", signal.SIGSTOP, ["parallel.llm.zero_stage=3"])):
    out = w.path(name)
    args = ["train", w.path("job.yaml"), "--set", "run.out=" + out, "--set", "run.steps=1000000", "--set", "checkpoint.every=0",
            "--set", f"runtime.timeout_s={TIMEOUT_S}", "--set", "optim.lr=1e-6"]
    for one in layout:
        args += ["--set", one]
    job = start(args, ranks=2)
    for line in job.stdout:
        if b'"step":5,' in line:
            break
    found = ranks_of(out)
    if 1 not in found:
        rest, err = job.communicate(timeout=60)
        expect(False, f"{name}: the job runs", Result(job.returncode, rest.decode(), err.decode(errors="replace")))
    os.kill(found[1], signal_number)
    begin = time.time()
    rest, err = job.communicate(timeout=60)
    result = Result(job.returncode, rest.decode(), err.decode(errors="replace"))
    print(name, result.code, f"{time.time() - begin:.1f} s", [line for line in result.err.splitlines() if "waits" in line][:2])
    expect("rank 0 waits" in result.err, f"{name}: the report names who waits", result)
    if signal_number == signal.SIGSTOP:
        expect(result.code == 6, f"{name}: code 6", result)
        expect("rank 1" in result.err or "ranks 0,1" in result.err, f"{name}: and for whom", result)
    else:
        expect(result.code != 0, f"{name}: the job has failed", result)
    expect(time.time() - begin < TIMEOUT_S + 20, f"{name}: in time", result)
w.remove()
