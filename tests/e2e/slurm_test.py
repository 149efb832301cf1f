"""The batch scripts of tools/slurm on a real Slurm: a private one of this machine, all of it on loopback. Needs root."""
import contextlib
import glob
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from harness import BINARY, ROOT, Result, Workspace, checkpoint_bytes, expect

STEPS = 2500  # long enough to be caught half way
HOST = socket.gethostname().split(".")[0]
CONF = """ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket={dir}/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
KillWait=5
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.pid
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 Gres=gpu:{num_gpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
FAKE_GPUS = ("null", "zero", "full", "random", "urandom", "tty")  # any devices will do: the scripts ask for GPUs, the jobs use none
ONE_NODE = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1"]


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def wait_for(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < deadline, f"{what} within {seconds} s")
        time.sleep(0.1)


class Slurm:
    """munged, slurmctld and slurmd with everything they own in one folder."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="ot_slurm.", dir="/tmp")
        os.chmod(self.dir, 0o755)
        for name, mode in (("munge", 0o711), ("state", 0o700), ("spool", 0o755)):
            os.mkdir(f"{self.dir}/{name}")
            os.chmod(f"{self.dir}/{name}", mode)
        with open(os.open(f"{self.dir}/munge/key", os.O_CREAT | os.O_WRONLY, 0o600), "wb") as f:
            f.write(os.urandom(128))
        self.write("slurm.conf", CONF.format(host=HOST, dir=self.dir, ports=free_ports(2), num_gpus=len(FAKE_GPUS)))
        self.write("gres.conf", "AutoDetect=off\n" + "".join(f"Name=gpu File=/dev/{name}\n" for name in FAKE_GPUS))
        self.write("cgroup.conf", "CgroupPlugin=cgroup/v1\n")
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "OMPI_", "PMIX_"))}
        self.env.update(SLURM_CONF=f"{self.dir}/slurm.conf", OMP_NUM_THREADS="1", TMPDIR=self.dir, OMPI_MCA_btl="self,vader",
                        OMPI_MCA_btl_vader_backing_directory=self.dir, OMPI_MCA_oob_tcp_if_include="lo",
                        OMPI_MCA_mpi_yield_when_idle="1", OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        self.daemons = []

    def write(self, name, text):
        with open(f"{self.dir}/{name}", "w") as f:
            f.write(text)

    def start(self):
        munge = f"{self.dir}/munge"
        self.daemon("munged", "--foreground", f"--key-file={munge}/key", f"--socket={munge}/socket", f"--pid-file={munge}/pid",
                    f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2")
        wait_for(lambda: os.path.exists(f"{munge}/socket"), "munged", 10)
        self.daemon("slurmctld", "-D")
        wait_for(lambda: "UP" in self.call("scontrol", "ping").out, "slurmctld", 20)
        self.daemon("slurmd", "-D")
        wait_for(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T").out, "an idle node", 20)

    def daemon(self, name, *args):
        with open(f"{self.dir}/{name}.log", "w") as log:
            self.daemons.append(subprocess.Popen([name, *args], env=self.env, stdout=log, stderr=log, cwd=self.dir))

    def stop(self):
        self.call("scancel", "--user=root")
        with contextlib.suppress(SystemExit):
            wait_for(lambda: not self.call("squeue", "--noheader").out, "an empty queue", 15)
        for process in reversed(self.daemons):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
        for path in glob.glob("/proc/[0-9]*/environ"):  # whatever is left of its jobs and daemons
            with contextlib.suppress(OSError):
                if f"SLURM_CONF={self.dir}/".encode() in open(path, "rb").read():
                    os.kill(int(path.split("/")[2]), signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def call(self, *command, cwd=None):
        done = subprocess.run(command, env=self.env, cwd=cwd or self.dir, capture_output=True, text=True, timeout=60)
        return Result(done.returncode, done.stdout, done.stderr)


class Job:
    def __init__(self, slurm, folder, name, script, *args):
        self.slurm, self.base = slurm, os.path.join(folder, name)
        sent = slurm.call("sbatch", "--parsable", f"--job-name={name}", f"--output={self.base}.out", f"--error={self.base}.err",
                          *ONE_NODE, script, *args, cwd=folder)
        expect(sent.code == 0, f"sbatch {script}", sent)
        self.id, self.name = sent.out.strip(), name

    def text(self, kind):
        with contextlib.suppress(FileNotFoundError), open(f"{self.base}.{kind}") as f:
            return f.read()
        return ""

    def result(self):
        return Result(self.field("ExitCode"), self.text("out"), self.text("err"))

    def field(self, name):
        shown = self.slurm.call("scontrol", "--oneliner", "show", "job", self.id)
        found = re.search(rf"\b{name}=(\S+)", shown.out)
        return found.group(1) if found else shown.err

    def wait(self, state, code, restarts):
        def is_over():
            return self.field("JobState") not in ("PENDING", "RUNNING", "COMPLETING")
        try:
            wait_for(is_over, f"the end of {self.name}", 90)
        except SystemExit:
            expect(False, f"{self.name} is {self.field('JobState')}", self.result())
        seen = (self.field("JobState"), self.field("ExitCode"), self.field("Restarts"))
        expect(seen == (state, code, str(restarts)), f"{self.name} ends as {state} {code}, {restarts} restarts, not {seen}", self.result())
        return self.result()

    def after_first_step(self, *scancel):
        wait_for(lambda: '"record":"step"' in self.text("out"), f"the first step of {self.name}")
        expect(self.slurm.call("scancel", *scancel, self.id).code == 0, f"scancel {scancel}")


def main(slurm, w):
    # A checkout as the scripts expect it, with the scripts as they are.
    root = w.path("checkout")
    os.makedirs(f"{root}/bazel-bin/cmd/omnitrain")
    os.symlink(BINARY, f"{root}/bazel-bin/cmd/omnitrain/omnitrain")
    shutil.copytree(os.path.join(ROOT, "tools/slurm"), f"{root}/tools/slurm")

    def submit(launcher, name, *sets):
        sets = [f"run.out={w.dir}/{name}", f"run.steps={STEPS}", "checkpoint.every=0", *sets]
        return Job(slurm, root, name, f"tools/slurm/train_{launcher}.sbatch", w.path("job.yaml"), *(x for s in sets for x in ("--set", s)))

    for launcher in ("mpirun", "srun"):
        straight = submit(launcher, f"{launcher}_straight").wait("COMPLETED", "0:0", 0)
        end = straight.records()[-1]
        expect(straight.records("start")[0]["world"] == 2, f"{launcher}: two ranks", straight)
        expect((end["record"], end["reason"], len(straight.losses())) == ("end", "done", STEPS), f"{launcher}: a whole run", straight)

        # USR1 in mid-run: saved, requeued, resumed. Not requeued: a spec that is wrong, a job that was asked to stop, and
        # one that was cancelled. mpirun waits 20 s before it returns an error, so they run side by side.
        job = submit(launcher, f"{launcher}_usr1")
        job.after_first_step("--signal=USR1", "--batch")
        bad, stopped = submit(launcher, f"{launcher}_bad", "optim.lrr=1"), submit(launcher, f"{launcher}_usr2")
        stopped.after_first_step("--signal=USR2", "--batch")
        cancelled = submit(launcher, f"{launcher}_cancelled")
        cancelled.after_first_step()

        halves = job.wait("COMPLETED", "0:0", 1)
        starts, ends = halves.records("start"), halves.records("end")
        expect([e["exit_code"] for e in ends] == [128 + signal.SIGUSR1, 0], f"{launcher}: saved after USR1, then done", halves)
        expect(0 < ends[0]["step"] < STEPS and starts[1]["step"] == ends[0]["step"] and starts[1]["resumed_from"],
               f"{launcher}: the second start goes on where the first stopped", halves)
        expect(halves.losses() == straight.losses(), f"{launcher}: the losses of an uninterrupted run, to the last bit", halves)
        last = f"checkpoints/step-{STEPS:08d}"
        expect(checkpoint_bytes(w.path(f"{launcher}_usr1/{last}")) == checkpoint_bytes(w.path(f"{launcher}_straight/{last}")),
               f"{launcher}: the checkpoint of an uninterrupted run, to the last bit")

        expect("optim.lr" in bad.wait("FAILED", "2:0", 0).err, f"{launcher}: the error is named")
        saved = stopped.wait("FAILED", f"{128 + signal.SIGUSR2}:0", 0)
        expect(saved.records()[-1]["reason"] == f"signal {int(signal.SIGUSR2)}", f"{launcher}: saved after USR2", saved)
        cancelled.wait("CANCELLED", cancelled.field("ExitCode"), 0)

    # A failing network: tried again, but not for ever.
    with open(f"{root}/six.sbatch", "w") as f:
        f.write("#!/bin/bash\n#SBATCH --requeue\n#SBATCH --open-mode=append\nexport OMNITRAIN_MAX_RESTARTS=1\n"
                "source tools/slurm/requeue.sh\nrun_and_requeue bash -c 'exit 6'\n")
    Job(slurm, root, "six", "six.sbatch").wait("FAILED", "6:0", 1)


for needed in ("munged", "slurmctld", "slurmd", "sbatch", "mpirun"):
    expect(shutil.which(needed), f"{needed} is missing: tools/dev slurm installs it")
expect(os.geteuid() == 0, "runs as root: slurmd and munged want it")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
workspace, private = Workspace(), Slurm()
try:
    private.start()
    main(private, workspace)
except BaseException:
    for log in ("munged", "slurmctld", "slurmd"):
        with contextlib.suppress(FileNotFoundError), open(f"{private.dir}/{log}.log") as lines:
            print(f"--- {log}:\n" + "".join(lines.readlines()[-15:]))
    raise
finally:
    private.stop()
    workspace.remove()
print("slurm: passed")
