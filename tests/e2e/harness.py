"""What end-to-end tests share: running the binary, alone or under mpirun, and a tiny data set of their own."""
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib

ROOT = os.environ.get("TEST_SRCDIR", ".") + "/" + os.environ.get("TEST_WORKSPACE", "")
BINARY = os.path.abspath(os.environ.get("OMNITRAIN_BINARY") or os.path.join(ROOT, "cmd/omnitrain/omnitrain"))
MPI_TEST = os.path.abspath(os.path.join(ROOT, "tests/support/mpi_test.sh"))
GOLDEN = os.path.abspath(os.path.join(ROOT, "tests/golden/qwen3_vl"))


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def records(self, kind=None):
        parsed = [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]
        return [r for r in parsed if kind is None or r["record"] == kind]

    def losses(self):
        return [r["loss"] for r in self.records("step")]


def start(args, ranks=0, env=None, prefix=()):
    """Starts the binary; `ranks` > 0 goes through mpirun."""
    command = [*prefix, BINARY, *args] if ranks == 0 else [MPI_TEST, str(ranks), BINARY, *args]
    full = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=full)


def run(args, ranks=0, timeout=120, env=None, prefix=()):
    """Runs the binary to its end. Never raises on the exit code: tests look at it."""
    process = start(args, ranks, env, prefix)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Result(process.returncode, out.decode(), err.decode(errors="replace"))


def expect(condition, what, result=None):
    if condition:
        return
    print("FAILED:", what)
    if result is not None:
        print("exit code", result.code, "\nstdout:", result.out[-2000:], "\nstderr:", result.err[-3000:])
    sys.exit(1)


def expect_error(result, code, *words):
    expect(result.code == code, f"exit code {code}", result)
    for word in words:
        expect(word in result.err, f"stderr names {word!r}", result)


def png(width, height, rgb):
    rows = b"".join(b"\0" + bytes(rgb) * width for _ in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
            chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (255, 255, 255),
           "black": (0, 0, 0), "yellow": (230, 220, 20)}


def write_tar(path, files):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def colour_files(count):
    files = []
    for i in range(count):
        name, rgb = sorted(COLOURS.items())[i % len(COLOURS)]
        files.append((f"s{i:04d}.png", png(32 + 32 * (i % 2), 32, rgb)))
        files.append((f"s{i:04d}.txt", f"Colour: A {name} square.".encode()))
    return files


class Workspace:
    """A folder with data, a tokenizer and the keys of a tiny job."""

    def __init__(self, count=48):
        self.dir = tempfile.mkdtemp(prefix="ot_e2e.", dir="/tmp")
        os.makedirs(self.path("data"))
        write_tar(self.path("data/a.tar"), colour_files(count))
        with open(self.path("text.txt"), "w") as f:
            for name in COLOURS:
                f.write(f"user\nassistant\nColour: A {name} square.\n" * 20)
        made = run(["tokenizer", "train", self.path("text.txt"), "--vocab", "320", "--to", self.path("tokenizer")])
        expect(made.code == 0, "tokenizer train", made)
        with open(self.path("job.yaml"), "w") as f:
            f.write(JOB.replace("DIR", self.dir))

    def path(self, name):
        return os.path.join(self.dir, name)

    def train(self, *sets, ranks=0, resume=None, files=None, **kwargs):
        args = ["train", *(files or [self.path("job.yaml")])]
        for one in sets:
            args += ["--set", one]
        if resume:
            args += ["--resume", resume]
        return run(args, ranks=ranks, **kwargs)

    def remove(self):
        shutil.rmtree(self.dir, ignore_errors=True)


JOB = """run: {name: tiny, out: DIR/run, seed: 3, steps: 6}
model:
  arch:
    family: qwen3_vl
    tie_word_embeddings: true
    text: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8,
           intermediate_size: 48, max_position_embeddings: 512, rope_parameters: {rope_theta: 10000.0, mrope_section: [2, 1, 1]}}
    vision: {depth: 2, hidden_size: 32, num_heads: 2, intermediate_size: 48, patch_size: 16, spatial_merge_size: 2,
             num_position_embeddings: 16, deepstack_visual_indexes: [0]}
data:
  sources: [{path: DIR/data, format: webdataset, prompts: [Say.]}]
  tokenizer: DIR/tokenizer
  image: {min_pixels: 1024, max_pixels: 4096}
batch: {samples: 8, micro_batch_tokens: 256}
optim: {lr: 1.0e-2, warmup_steps: 2, weight_decay: 0.1}
precision: fp64
runtime: {device: cpu, threads: 1}
checkpoint: {every: 3, keep_last: 2, async: true}
"""


def checkpoint_bytes(directory):
    """The data files of a checkpoint, whole, by name."""
    return {name: open(os.path.join(directory, name), "rb").read()
            for name in sorted(os.listdir(directory)) if name != "manifest.json"}


def close(a, b, bound):
    return len(a) == len(b) and len(a) > 0 and all(abs(x - y) <= bound * max(1.0, abs(y)) for x, y in zip(a, b))


def read_safetensors(path):
    """Header and a mutable copy of the data."""
    raw = open(path, "rb").read()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + size]), bytearray(raw[8 + size:])


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + bytes(data))
