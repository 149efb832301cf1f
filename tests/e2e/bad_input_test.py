"""Bad input: the right exit code, and a message that names what to fix."""
import json
import os
import shutil
import struct

from harness import Workspace, colour_files, expect, expect_error, png, read_safetensors, run, write_safetensors, write_tar

w = Workspace()
count = 0


def case(result, code, *words):
    global count
    expect_error(result, code, *words)
    count += 1


# The spec.
with open(w.path("typo.yaml"), "w") as f:
    f.write(open(w.path("job.yaml")).read() + "metrics:\n  log_evry: 3\n")
case(w.train(files=[w.path("typo.yaml")]), 2, "typo.yaml:20", "metrics.log_evry", "metrics.log_every")
case(w.train("optim.learning_rate=1"), 2, "optim.learning_rate", "optim.lr")
case(w.train("run.steps=many"), 2, "run.steps")
case(w.train("data.sources.0.path=/nowhere"), 2, "data.sources", "/nowhere")
case(w.train("parallel.llm.tp=2"), 2, "parallel.llm", "world of 1 ranks", "tp*cp*pp = 2*1*1")
case(w.train("parallel.llm.tp=3", ranks=3), 2, "parallel.llm.tp: 4 query heads do not split over tp=3")
case(w.train("precision=bf16"), 2, "bf16")
case(w.train("parallel.llm.zero_stge=3"), 2, "parallel.llm.zero_stge", "parallel.llm.zero_stage")
case(w.train("parallel.llm.zero_stage=2"), 2, "parallel.llm.zero_stage", "1 or 3")
for other in ("pp=2", "schedule=zero_bubble"):
    case(w.train("parallel.llm.zero_stage=3", "parallel.llm." + other, ranks=2), 2, "parallel.llm.zero_stage: 3 needs")
case(w.train("parallel.llm.dp=3", ranks=2), 2, "parallel.llm.dp", "2 ranks")
case(run(["train", w.path("missing.yaml")]), 2, "missing.yaml")

# Data.
files = colour_files(160)
files[14] = (files[14][0], files[14][1][:60])  # a picture that ends early
os.makedirs(w.path("corrupt"))
write_tar(w.path("corrupt/a.tar"), files)
some = w.train(f"data.sources.0.path={w.dir}/corrupt", f"run.out={w.dir}/c1", "run.steps=24", "data.max_bad_fraction=0.05")
case(some, 0, files[14][0].split(".")[0])
expect(some.records("step")[-1]["skipped"] >= 1, "skipped samples are counted", some)
for i in range(0, 80, 4):
    files[i] = (files[i][0], b"not a picture")
write_tar(w.path("corrupt/a.tar"), files)
case(w.train(f"data.sources.0.path={w.dir}/corrupt", f"run.out={w.dir}/c2", "run.steps=40"), 3, "max_bad_fraction")
open(w.path("corrupt/a.tar"), "ab").truncate(5000)
case(w.train(f"data.sources.0.path={w.dir}/corrupt", f"run.out={w.dir}/c3"), 3, "a.tar")

with open(w.path("chat.jsonl"), "w") as f:
    for i in range(16):
        open(w.path(f"p{i}.png"), "wb").write(png(32, 32, (10 * i, 0, 0)))
        images = [f"p{i}.png"] if i != 5 else []  # one tag, no file
        f.write(json.dumps({"messages": [{"role": "user", "content": "<image>Say."}, {"role": "assistant", "content": "Colour: A red square."}],
                            "images": images}) + "\n")
mismatch = w.train(f"data.sources=[{{path: {w.dir}/chat.jsonl, format: messages}}]", f"run.out={w.dir}/m", "run.steps=4",
                   "data.max_bad_fraction=0.5")
case(mismatch, 0, "chat.jsonl:6", "skipped")

# Longer than a micro-batch: skipped and counted, or cut behind the picture.
with open(w.path("long.jsonl"), "w") as f:
    for i in range(16):
        answer = "Colour: A red square. " * (40 if i % 4 == 0 else 1)
        f.write(json.dumps({"messages": [{"role": "user", "content": "<image>Say."}, {"role": "assistant", "content": answer}],
                            "images": [f"p{i}.png"]}) + "\n")
long = [f"data.sources=[{{path: {w.dir}/long.jsonl, format: messages}}]", "run.steps=2", "batch.micro_batch_tokens=64",
        "data.max_bad_fraction=0.5"]
skip = w.train(*long, f"run.out={w.dir}/l1")
expect(skip.code == 0 and skip.records("step")[-1]["skipped"] == 4, "long samples are skipped and counted", skip)
cut = w.train(*long, f"run.out={w.dir}/l2", "data.too_long=truncate")
expect(cut.code == 0 and cut.records("step")[-1]["skipped"] == 0 and sum(r["truncated"] for r in cut.records("step")) == 4, "long samples are cut", cut)
nothing = w.train(*long, f"run.out={w.dir}/l3", "data.too_long=truncate", "batch.micro_batch_tokens=8")
expect(nothing.code == 3, "samples whose pictures alone do not fit are never cut inside one", nothing)
count += 3

# Model directories.
made = w.train(f"run.out={w.dir}/base", "run.steps=2", "checkpoint.hf_export=true")
expect(made.code == 0, "a model to break", made)


def broken(name, change, *sets, ranks=0):
    model = w.path(name)
    shutil.copytree(w.path("base/hf"), model)
    change(model + "/model.safetensors")
    return w.train("model.arch=null", f"model.hf={model}", f"run.out={w.dir}/{name}.run", "run.steps=2", *sets, ranks=ranks)


def truncate(path):
    with open(path, "ab") as f:
        f.truncate(os.path.getsize(path) // 2)


def reshape(path):
    header, data = read_safetensors(path)
    shape = header["model.language_model.norm.weight"]["shape"]
    header["model.language_model.norm.weight"]["shape"] = [2, shape[0] // 2]
    write_safetensors(path, header, data)


def rename(path):
    header, data = read_safetensors(path)
    header["model.visual.merger.norm.wait"] = header.pop("model.visual.merger.norm.weight")
    write_safetensors(path, header, data)


def poison(path):
    header, data = read_safetensors(path)
    struct.pack_into("<f", data, header["model.language_model.layers.1.mlp.down_proj.weight"]["data_offsets"][0], float("nan"))
    write_safetensors(path, header, data)


case(broken("truncated", truncate), 4, "truncated/model.safetensors")
case(broken("shape", reshape), 4, "model.language_model.norm.weight", "[2, 16]", "[32]")
case(broken("name", rename), 4, "model.visual.merger.norm.weight")
case(broken("nan", poison), 5, "step 1", "llm.layers.1.down")
# One rank of a replica has it; the others look with it.
for degrees in ("tp=2", "pp=2", "cp=2", "zero_stage=3"):
    split = broken("nan-" + degrees, poison, "parallel.llm." + degrees, "runtime.timeout_s=20", ranks=2)
    case(split, 5, "step 1", "llm.layers.1.down")
diverged = w.train(f"run.out={w.dir}/explode", "optim.lr=1.0e+200", "optim.warmup_steps=0", "optim.clip=0", "run.steps=6")
case(diverged, 5, "step ")

# A disk that fills up while saving: the checkpoint before it stands, and the run says so with code 4. The limit on the
# size of a file leaves MPI the few MB that it maps, but not a checkpoint of this model.
job = open(w.path("job.yaml")).read()
for old, new in (("text: {hidden_size: 32,", "text: {hidden_size: 128,"), ("intermediate_size: 48, max", "intermediate_size: 1536, max")):
    expect(old in job, "a key to change")
    job = job.replace(old, new, 1)
open(w.path("large.yaml"), "w").write(job)
large = dict(files=[w.path("large.yaml")])
made = w.train(f"run.out={w.dir}/large", "run.steps=2", **large)
expect(made.code == 0, "a checkpoint to keep", made)
size = os.path.getsize(w.path("large/checkpoints/step-00000002/" + sorted(
    n for n in os.listdir(w.path("large/checkpoints/step-00000002")) if n != "manifest.json")[0]))
expect(size > 16 << 20, f"a checkpoint of {size} bytes is over the limit")
limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 16384; exec "$@"', "limited"]
full = w.train(f"run.out={w.dir}/large", "run.steps=4", prefix=limited, **large)
case(full, 4, "step-00000004", "File too large")
expect(os.path.exists(w.path("large/checkpoints/step-00000002/manifest.json")), "the old checkpoint survives", full)
expect(sorted(os.listdir(w.path("large/checkpoints"))) == ["latest", "step-00000002"], "no half checkpoint", full)
again = w.train(f"run.out={w.dir}/large", "run.steps=4", **large)
expect(again.code == 0 and len(again.records("step")) == 2, "and the run goes on from it", again)

w.remove()
print(f"bad input: {count} passed, 0 failed")
