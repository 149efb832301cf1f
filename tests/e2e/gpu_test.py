"""Whole runs on a machine with a GPU: parity with golden cases in f32 and bf16, equal bits, checkpoints between CPU and GPU,
several ranks on one GPU and one rank a GPU. Run by hand (or by `tools/dev gpu`): CI has no GPU.

usage: gpu_test.py [--golden DIR] [PART...]     parts: parity jobs ranks layouts nccl demo; default: all that the machine can run
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from harness import GOLDEN, Result, Workspace, checkpoint_bytes, close, expect, run, start

arguments = argparse.ArgumentParser()
arguments.add_argument("--golden", default=os.path.dirname(GOLDEN), help="folder of golden cases, each with model/ and batch.safetensors")
arguments.add_argument("parts", nargs="*")
args = arguments.parse_args()
num_gpus = len(subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE).stdout.splitlines())
expect(num_gpus > 0, "this machine has a GPU")
parts = args.parts or ["parity", "jobs", "ranks", "layouts"] + ["nccl"] * (num_gpus > 1) + ["demo"] * os.path.exists("build/stamps/done")
failed = []


def check(condition, what, result=None):
    """Notes a failure and goes on: time on such a machine is dear."""
    print("ok  " if condition else "FAIL", what, flush=True)
    if not condition:
        failed.append(what)
        if result is not None:
            print("exit code", result.code, "\n", result.out[-300:], "\n", result.err[-2500:], flush=True)


def parity(family, precision):
    case = os.path.join(args.golden, family)
    with tempfile.TemporaryDirectory() as out:
        report = os.path.join(out, "report.json")
        result = run(["parity", "--model", case + "/model", "--batch", case + "/batch.safetensors", "--expected",
                      case + "/expected.safetensors", "--device", "cuda", "--precision", precision, "--report", report])
        worst = ""
        if os.path.exists(report):
            compared = json.load(open(report))["layouts"][0]["tensors"]
            top = max(compared, key=lambda c: c["error"] / c["bound"] if c["bound"] else 0)
            loss = next((c["error"] for c in compared if c["name"] == "loss"), None)
            median = next((c["error"] for c in compared if c["name"].startswith("median")), None)
            worst = f"loss {loss:.2e}, worst {top['name']} {top['error']:.2e} of {top['bound']:.1e}" + (f", median ratio {median:.2f}" if median else "")
        check(result.code == 0, f"parity {family} {precision}: {worst}", result)


if "parity" in parts:
    for family in sorted(os.listdir(args.golden)):
        if os.path.exists(os.path.join(args.golden, family, "batch.safetensors")):
            has_bf16 = "bf16_relative_error" in open(os.path.join(args.golden, family, "expected.json")).read()
            for precision in ["fp32"] + ["bf16"] * has_bf16:
                parity(family, precision)

w = Workspace()
CUDA, FP32, BF16 = "runtime.device=cuda", "precision=fp32", "precision=bf16"


def out(name):
    return f"run.out={w.dir}/{name}"


cpu = w.train(out("cpu"), FP32)
expect(cpu.code == 0, "the job on the CPU", cpu)

if "jobs" in parts:
    for precision in (FP32, BF16):
        name = precision[-4:]
        first = w.train(out(name + "-a"), CUDA, precision)
        again = w.train(out(name + "-b"), CUDA, precision)
        check(first.code == 0, f"{precision}: the job runs on the GPU", first)
        check(first.losses() == again.losses() and len(first.losses()) == 6, f"{precision}: the same spec twice gives equal losses", again)
        a, b = (w.path(f"{name}-{x}/checkpoints/step-00000006") for x in "ab")
        check(os.path.isdir(a) and os.path.isdir(b) and checkpoint_bytes(a) == checkpoint_bytes(b), f"{precision}: and equal checkpoints")
        check(close(first.losses(), cpu.losses(), 1e-4 if precision == FP32 else 2e-2), f"{precision}: the curve of the CPU: {first.losses()} {cpu.losses()}")
        # Half on one device, half on the other.
        for start, end in ((CUDA, "runtime.device=cpu"), ("runtime.device=cpu", CUDA)):
            if precision == BF16:
                continue
            run_dir = f"{name}-{start[-4:]}"
            half = w.train(out(run_dir), start, precision)
            shutil.rmtree(w.path(run_dir + "/checkpoints/step-00000006"), ignore_errors=True)
            moved = w.train(out(run_dir), end, precision)
            check(half.code == 0 and moved.code == 0 and close(moved.losses(), cpu.losses()[3:], 1e-4), f"a checkpoint of {start} goes on with {end}", moved)
        # Straight and resumed: equal bits on one device.
        shutil.rmtree(w.path(name + "-b/checkpoints/step-00000006"), ignore_errors=True)
        resumed = w.train(out(name + "-b"), CUDA, precision)
        check(resumed.losses() == first.losses()[3:], f"{precision}: resumed steps are those of the straight run", resumed)

if "ranks" in parts:
    one = w.train(out("one"), CUDA, FP32)
    for ranks in (2, 4):
        several = w.train(out(f"mpi{ranks}"), CUDA, FP32, "runtime.comm=mpi", ranks=ranks)
        check(several.code == 0 and close(several.losses(), one.losses(), 1e-4), f"{ranks} ranks on one GPU (mpi): the curve of one rank", several)
    moved_dir = w.path("mpi4/checkpoints/step-00000006")
    shutil.rmtree(moved_dir, ignore_errors=True)
    moved = w.train(out("mpi4"), CUDA, FP32)
    check(moved.code == 0 and close(moved.losses(), one.losses()[3:], 1e-4), "a checkpoint of 4 ranks goes on with one", moved)
    if num_gpus == 1:
        refused = w.train(out("refused"), CUDA, FP32, "runtime.comm=nccl", ranks=2)
        check(refused.code == 2 and "runtime.comm" in refused.err, "two ranks on one GPU over nccl are refused with a word", refused)

def layout_parity(family, ranks, comm, layouts, precision="fp32"):
    """The golden case and its training curve under layouts of several ranks, in one launch."""
    case = os.path.join(args.golden, family)
    if not os.path.exists(case):
        print(f"skip {family}: no such case in {args.golden}")
        return
    with tempfile.TemporaryDirectory() as out:
        with open(f"{out}/layouts.txt", "w") as f:
            f.writelines(" ".join(f"parallel.llm.{one}" for one in layout.split()) + "\n" for layout in layouts)
        curve = ["--curve", case + "/expected.json"] if precision == "fp32" else []
        result = run(["parity", "--model", case + "/model", "--batch", case + "/batch.safetensors", "--expected",
                      case + "/expected.safetensors", *curve, "--device", "cuda", "--precision", precision, "--repeat", "2",
                      "--layouts", f"{out}/layouts.txt", "--report", f"{out}/report.json", "--set", "runtime.comm=" + comm,
                      "--set", "runtime.timeout_s=60"], ranks=ranks, timeout=200)
        reports = json.load(open(f"{out}/report.json"))["layouts"] if os.path.exists(f"{out}/report.json") else []
        for one in reports:
            compared = one["tensors"]
            top = max(compared, key=lambda c: c["error"] / c["bound"] if c["bound"] else 0)
            points = [c["error"] for c in compared if c["name"].startswith("curve.")]
            worst = f"worst {top['name']} {top['error']:.2e} of {top['bound']:.1e}" + (f", curve {max(points):.1e}" if points else "")
            check(one["ok"], f"{family} {precision} {ranks} ranks ({comm}) {one['layout']}: {worst}")
        check(result.code == 0 and len(reports) == len(layouts), f"{family} {precision}: {len(layouts)} layouts of {ranks} ranks ({comm})", result)


if "layouts" in parts:
    layout_parity("qwen3_vl", 8, "mpi", ["tp=2 cp=2 pp=2", "tp=2 dp=2 pp=2 vpp=2", "pp=4 dp=2 schedule=zero_bubble",
                                         "tp=4 cp=2 cp_method=ring", "cp=4 dp=2 cp_method=ulysses", "tp=2 cp=4",
                                         "zero_stage=3", "tp=2 cp=2 dp=2 zero_stage=3"])
    layout_parity("qwen2_5_vl", 8, "mpi", ["tp=2 cp=2 dp=2", "tp=4 pp=2"])
    layout_parity("qwen2_vl", 8, "mpi", ["tp=2 cp=2 pp=2"])
    layout_parity("qwen3_vl_moe", 8, "mpi", ["ep=8", "tp=2 pp=2 ep=4", "cp=2 ep=2 tp=2", "ep=4 tp=2 zero_stage=3"])
    layout_parity("qwen3_vl", 4, "mpi", ["tp=2 cp=2", "cp=4 cp_method=ring", "pp=2 tp=2", "cp=2 zero_stage=3"], precision="bf16")
    layout_parity("qwen3_vl_moe", 4, "mpi", ["ep=4", "tp=2 ep=2"], precision="bf16")

if "nccl" in parts:
    two_ranks = ["tp=2", "pp=2", "pp=2 vpp=2", "pp=2 schedule=zero_bubble", "cp=2 cp_method=ring", "cp=2 cp_method=ulysses",
                 "zero_stage=3", "tp=2 zero_stage=3", "dp=2"]
    layout_parity("qwen3_vl", 2, "nccl", two_ranks)
    layout_parity("qwen3_vl_moe", 2, "nccl", ["ep=2", "tp=2 ep=2", "ep=2 zero_stage=3"])
    layout_parity("qwen3_vl", 2, "nccl", two_ranks[:-1], precision="bf16")
    one = w.train(out("one-nccl"), CUDA, FP32)
    two = w.train(out("nccl2"), CUDA, FP32, "runtime.comm=nccl", ranks=2)
    check(two.code == 0 and close(two.losses(), one.losses(), 1e-4), "2 ranks on 2 GPUs (nccl): the curve of one rank", two)
    same = w.train(out("nccl2-b"), CUDA, FP32, "runtime.comm=nccl", ranks=2)
    check(same.losses() == two.losses(), "2 ranks over nccl twice: equal losses", same)
    sharded, again = (w.train(out(name), CUDA, FP32, "runtime.comm=nccl", "parallel.llm.zero_stage=3", ranks=2) for name in ("nccl3", "nccl3-b"))
    check(sharded.code == 0 and close(sharded.losses(), one.losses(), 1e-4), "2 ranks over nccl, layers sharded: the curve of one rank", sharded)
    check(again.losses() == sharded.losses(), "and twice: equal losses", again)
    # A rank that stops must not leave the others waiting for ever.
    job = start(["train", w.path("job.yaml"), "--set", out("stopped"), "--set", CUDA, "--set", FP32, "--set", "run.steps=1000000", "--set",
                 "runtime.comm=nccl", "--set", "runtime.timeout_s=5"], ranks=2)
    for line in job.stdout:
        if b'"step":20,' in line:
            break
    children = subprocess.run(["pgrep", "-f", "run.out=" + w.path("stopped")], stdout=subprocess.PIPE).stdout.split()
    ranks_of = {p: open(f"/proc/{p}/environ").read() for p in map(int, children)}
    second = next(p for p, environ in ranks_of.items() if "OMPI_COMM_WORLD_RANK=1" in environ)
    os.kill(second, signal.SIGSTOP)
    rest, err = job.communicate(timeout=60)
    stopped = Result(job.returncode, rest.decode(), err.decode(errors="replace"))
    check(stopped.code == 6 and "rank 0 waits" in stopped.err, "a stopped rank ends the job over nccl with code 6", stopped)
    print("".join(line + "\n" for line in stopped.err.splitlines() if "waits" in line))

if "demo" in parts:
    # The job of tools/demo (its data must be there), from the same file on every device.
    demo = [arg for one in ("run.steps=40", "eval.every=0", "checkpoint.every=0") for arg in ("--set", one)]

    def train_demo(name, *sets, ranks=0, **kwargs):
        given = [arg for one in (out(name), *sets) for arg in ("--set", one)]
        return run(["train", "configs/stamps.yaml", *demo, *given], ranks=ranks, timeout=300, **kwargs)

    def middle(values):
        return sorted(values)[len(values) // 2]

    def step_ms(result):
        return middle([r["step_ms"] for r in result.records("step")][5:])

    one = train_demo("demo-1")
    check(one.code == 0 and "cuda" in one.records("start")[0]["device"], "the demo job runs on one GPU", one)
    for ranks, comm in [(4, "mpi")] + ([(2, "nccl")] if num_gpus > 1 else []):
        several = train_demo(f"demo-{comm}{ranks}", "runtime.comm=" + comm, ranks=ranks)
        check(several.code == 0 and close(several.losses(), one.losses(), 1e-4), f"the demo job on {ranks} ranks ({comm}): the curve of one rank", several)
    host = train_demo("demo-cpu", "runtime.device=cpu", "runtime.threads=8", env={"OMP_NUM_THREADS": "8"})
    check(host.code == 0 and close(host.losses(), one.losses(), 1e-4), "the demo job on the CPU: the curve of the GPU", host)
    waits = [r["data_wait_ms"] / r["step_ms"] for r in one.records("step")][5:]
    print(json.dumps({"demo": "configs/stamps.yaml", "gpu_step_ms": step_ms(one), "cpu_8_threads_step_ms": step_ms(host),
                      "gpu_to_cpu": step_ms(host) / step_ms(one), "data_wait_share": sum(waits) / len(waits)}))

w.remove()
print(f"{len(failed)} failed")
sys.exit(1 if failed else 0)
