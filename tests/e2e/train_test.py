"""Whole training jobs on a tiny data set: the contract of the output, equal bits, ranks, resuming, saving."""
import os
import shutil
import signal
import struct
import subprocess
import time

from harness import BINARY, MPI_TEST, Workspace, checkpoint_bytes, close, expect, read_safetensors, run

w = Workspace()

# The contract of stdout and stderr.
base = w.train()
expect(base.code == 0, "a plain run", base)
kinds = [r["record"] for r in base.records()]
expect(kinds[0] == "start" and kinds[-1] == "end" and kinds.count("step") == 6 and "checkpoint" in kinds, "records in order", base)
for key in ("step", "loss", "grad_norm", "lr", "tokens", "samples", "step_ms", "data_wait_ms", "tokens_per_s", "tflops",
            "mem_bytes", "balance", "skipped", "eta_s"):
    expect(all(key in r for r in base.records("step")), f"step records have {key}", base)
expect(base.losses()[-1] < base.losses()[0], "the loss falls", base)
expect(base.err.count("step ") >= 6, "a line a step on stderr", base)
last = w.path("run/checkpoints/step-00000006")
saved = checkpoint_bytes(last)

# The same spec twice gives equal bits.
shutil.move(w.path("run"), w.path("run.first"))
again = w.train()
expect(again.losses() == base.losses() and checkpoint_bytes(last) == saved, "the same spec twice: equal bits", again)

# 6 steps = 3 + resume + 3, bitwise; the schedule of the learning rate is that of the whole run.
shutil.rmtree(w.path("run/checkpoints/step-00000006"))
os.remove(w.path("run/checkpoints/latest"))
resumed = w.train()
expect(resumed.code == 0 and resumed.losses() == base.losses()[3:], "resumed steps are those of the straight run", resumed)
expect(checkpoint_bytes(last) == saved, "resumed checkpoint: equal bits", resumed)

# A finished run that is started again trains nothing and ends well; --resume none refuses to write over it.
done = w.train()
expect(done.code == 0 and not done.records("step"), "a finished run is not repeated", done)
none = w.train(resume="none")
expect(none.code == 2 and "run.out" in none.err, "--resume none does not overwrite", none)

# Other numbers of ranks, gradient accumulation: the same curve.
for ranks in (2, 4):
    result = w.train(f"run.out={w.dir}/r{ranks}", ranks=ranks)
    expect(result.code == 0 and close(result.losses(), base.losses(), 1e-9), f"{ranks} ranks give the same curve", result)
small = w.train(f"run.out={w.dir}/small", "batch.micro_batch_tokens=64")
expect(small.code == 0 and close(small.losses(), base.losses(), 1e-9), "many small micro-batches give the same curve", small)
single = w.train(f"run.out={w.dir}/f32", "precision=fp32")
expect(single.code == 0 and close(single.losses(), base.losses(), 1e-4), "fp32 follows fp64", single)

# Resume on another number of ranks.
shutil.rmtree(w.path("r2/checkpoints/step-00000006"))
moved = w.train(f"run.out={w.dir}/r2", ranks=0)
expect(moved.code == 0 and close(moved.losses(), base.losses()[3:], 1e-9), "a run of 2 ranks goes on with one", moved)

# A run goes on under any other layout, and is exported from it.
def exported_weights(name):
    result = run(["export", w.path(name), "--to", w.path(name + "-hf")])
    expect(result.code == 0, f"export of {name}", result)
    header, data = read_safetensors(w.path(name + "-hf/model.safetensors"))
    return {k: struct.unpack(f"<{(v['data_offsets'][1] - v['data_offsets'][0]) // 4}f", data[slice(*v["data_offsets"])])
            for k, v in header.items() if k != "__metadata__"}


want = exported_weights("run")
moving = [f"run.out={w.dir}/moving", "checkpoint.every=1", "checkpoint.keep_last=0"]
for step, layout in enumerate(("pp=2", "tp=2", "tp=2 pp=2", "cp=2 dp=2", "pp=2 schedule=zero_bubble", "tp=4")):
    # Each takes up what the one before wrote at this step.
    result = w.train(*moving, *(f"parallel.llm.{one}" for one in layout.split()), ranks=4 if layout.count("=2") != 1 else 2)
    expect(result.code == 0 and close(result.losses(), base.losses()[step:], 1e-9), f"{layout}: the curve of one rank", result)
    got = exported_weights("moving")
    expect(got.keys() == want.keys() and all(close(got[k], want[k], 1e-6) for k in want), f"{layout}: exports the same weights", result)
    for later in range(step + 2, 7):
        shutil.rmtree(w.path(f"moving/checkpoints/step-{later:08}"))

# Sharded layers: equal bits twice, the curve of one rank; checkpoints of either kind go on as the other.
sharded = [f"run.out={w.dir}/sharded", "parallel.llm.zero_stage=3"]
one = w.train(*sharded, ranks=2)
expect(one.code == 0 and close(one.losses(), base.losses(), 1e-9), "sharded layers give the same curve", one)
saved = checkpoint_bytes(w.path("sharded/checkpoints/step-00000006"))
shutil.rmtree(w.path("sharded"))
again = w.train(*sharded, ranks=2)
expect(again.losses() == one.losses() and checkpoint_bytes(w.path("sharded/checkpoints/step-00000006")) == saved, "sharded layers twice: equal bits", again)
shutil.rmtree(w.path("sharded/checkpoints/step-00000006"))
resumed = w.train(*sharded, ranks=2)
expect(resumed.losses() == one.losses()[3:] and checkpoint_bytes(w.path("sharded/checkpoints/step-00000006")) == saved, "sharded and resumed: equal bits", resumed)
got = exported_weights("sharded")
expect(all(close(got[k], want[k], 1e-6) for k in want), "sharded layers export the same weights")
for step, stage in enumerate((1, 3, 1)):
    result = w.train(f"run.out={w.dir}/stages", "checkpoint.every=1", "checkpoint.keep_last=0", f"parallel.llm.zero_stage={stage}", ranks=2)
    expect(result.code == 0 and close(result.losses(), base.losses()[step:], 1e-9), f"stage {stage} goes on from the other", result)
    for later in range(step + 2, 7):
        shutil.rmtree(w.path(f"stages/checkpoints/step-{later:08}"))

# Small micro-batches, of which some ranks have fewer; frozen layers; and all that follows a run.
ends = ["eval.sources=[{path: " + w.path("data") + ", prompts: [Say.]}]", "eval.every=3", "eval.captions=2", "eval.sight.pairs=5",
        "checkpoint.hf_export=true", "batch.samples=7", "batch.micro_batch_tokens=64"]
for name, module in (("trained", "vision.lr_scale=1"), ("frozen", "llm.freeze=true")):
    one, three = (w.train(*ends, f"run.out={w.dir}/{name}{stage}", f"parallel.llm.zero_stage={stage}", "train." + module, ranks=ranks)
                  for stage, ranks in ((1, 0), (3, 3)))
    expect(one.code == 0 and three.code == 0 and close(three.losses(), one.losses(), 1e-9), f"{name} and sharded: the curve of one rank", three)
    first, last = one.records("end")[0], three.records("end")[0]
    expect(close([last["eval"]["loss"]], [first["eval"]["loss"]], 1e-9), f"{name} and sharded: the loss of held-out data", three)
    expect(close(list(last["sight"]["nats_per_byte"].values()), list(first["sight"]["nats_per_byte"].values()), 1e-9), f"{name} and sharded: sight", three)
    expect(last["captions"] == first["captions"] and len(last["captions"]) == 2, f"{name} and sharded: captions", three)
    weights = [read_safetensors(w.path(f"{name}{stage}/hf/model.safetensors")) for stage in (1, 3)]
    expect(weights[0][0] == weights[1][0], f"{name} and sharded: exported names", three)

# Frozen and slower modules.
frozen = w.train(f"run.out={w.dir}/frozen", "train.vision.freeze=true", "train.projector.freeze=true", "checkpoint.hf_export=true")
expect(frozen.code == 0, "frozen encoder", frozen)
slow = w.train(f"run.out={w.dir}/slow", "train.llm.lr_scale=0", "checkpoint.hf_export=true")
if slow.code == 2:
    slow = w.train(f"run.out={w.dir}/slow", "train.llm.freeze=true", "checkpoint.hf_export=true")
expect(slow.code == 0, "frozen llm", slow)
fresh = w.train(f"run.out={w.dir}/fresh", "run.steps=1", "optim.warmup_steps=0", "optim.lr=1.0e-200", "checkpoint.hf_export=true")
expect(fresh.code == 0, "a run that hardly moves", fresh)


def tensors(directory):
    header, data = read_safetensors(f"{directory}/hf/model.safetensors")
    spans = {k: v["data_offsets"] for k, v in header.items() if k != "__metadata__"}
    return {k: struct.unpack(f"<{(end - begin) // 4}f", data[begin:end]) for k, (begin, end) in spans.items()}


start, after, after_llm = tensors(w.path("fresh")), tensors(w.path("frozen")), tensors(w.path("slow"))
for name in start:
    is_vision = name.startswith("model.visual")
    expect((after[name] == start[name]) == is_vision, f"frozen encoder: {name}")
    expect((after_llm[name] == start[name]) == (not is_vision), f"frozen llm: {name}")

# Export, and training on from it.
exported = run(["export", w.path("run"), "--to", w.path("hf")])
expect(exported.code == 0 and os.path.exists(w.path("hf/config.json")) and os.path.exists(w.path("hf/tokenizer.json")), "export", exported)
on = w.train(f"run.out={w.dir}/on", "model.arch=null", f"model.hf={w.dir}/hf", "run.steps=1", "optim.warmup_steps=0")
longer = w.train("run.steps=7", f"run.out={w.dir}/run")
expect(on.code == 0 and on.records("start")[0]["parameters"] == base.records("start")[0]["parameters"], "train from the export", on)
expect(on.losses()[0] < base.losses()[0] * 0.9, "the exported weights are the trained ones", on)
half = run(["export", w.path("run"), "--to", w.path("hf16"), "--dtype", "bf16"])
expect(half.code == 0 and os.path.getsize(w.path("hf16/model.safetensors")) < 0.6 * os.path.getsize(w.path("hf/model.safetensors")), "bf16 export", half)

# The older families train from `model.arch`, and from what they export.
TOWERS = {"qwen2_vl": "{depth: 2, embed_dim: 32, num_heads: 2, mlp_ratio: 2, patch_size: 16, spatial_merge_size: 2}",
          "qwen2_5_vl": "{depth: 2, hidden_size: 32, num_heads: 2, intermediate_size: 44, patch_size: 16, spatial_merge_size: 2, "
                        "window_size: 32, fullatt_block_indexes: [1], tokens_per_second: 2}"}
for family, tower in TOWERS.items():
    text = ("{hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 48, "
            "max_position_embeddings: 512, rope_parameters: {rope_theta: 10000.0, mrope_section: [2, 1, 1]}}")
    arch = f"model.arch={{family: {family}, tie_word_embeddings: true, text: {text}, vision: {tower}}}"
    one = w.train("model.arch=null", arch, f"run.out={w.dir}/{family}", "checkpoint.hf_export=true")
    expect(one.code == 0 and len(one.losses()) == 6 and one.losses()[-1] < one.losses()[0] * 0.9, f"{family} trains", one)
    two = w.train("model.arch=null", arch, f"run.out={w.dir}/{family}-2", ranks=2)
    expect(two.code == 0 and close(two.losses(), one.losses(), 1e-9), f"{family} on two ranks", two)
    exported = run(["export", w.path(family), "--to", w.path(family + "-hf")])
    header, _ = read_safetensors(w.path(family + "-hf/model.safetensors"))
    expect(exported.code == 0 and "visual.merger.ln_q.weight" in header and "model.layers.0.self_attn.q_proj.bias" in header, f"names of {family}'s export", exported)
    on = w.train("model.arch=null", f"model.hf={w.dir}/{family}-hf", f"run.out={w.dir}/{family}-on", "run.steps=1", "optim.warmup_steps=0")
    expect(on.code == 0 and on.losses()[0] < one.losses()[0] * 0.9, f"{family} trains on from its export", on)

# A signal: saved, exit code 128 + n, resumable.
for ranks in (0, 2):
    out = w.path(f"signal{ranks}")
    sets = ["--set", f"run.out={out}", "--set", "run.steps=100000", "--set", "checkpoint.every=0"]
    command = [BINARY, "train", w.path("job.yaml"), *sets]
    if ranks:
        command = [MPI_TEST, str(ranks), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ, OMP_NUM_THREADS="1"))
    while b'"step"' not in process.stdout.readline():
        pass
    if ranks:
        subprocess.run(["pkill", "-USR1", "-f", f"^{BINARY} train {w.path('job.yaml')} --set run.out={out}"], check=True)
    else:
        process.send_signal(signal.SIGUSR1)
    rest = process.stdout.read().decode()
    code = process.wait(timeout=60)
    expect(code == 128 + signal.SIGUSR1, f"exit code {code} after USR1 with {ranks} ranks: {rest[-500:]}")
    expect(os.path.exists(f"{out}/checkpoints/latest/manifest.json"), "saved after USR1")

w.remove()
print("train: 20 passed, 0 failed")
