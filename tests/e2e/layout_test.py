"""Layouts against one rank, in fp64: enough of them that every pair of settings is met. `tools/dev sweep` runs all."""
import json
import os
import tempfile

from harness import GOLDEN, Workspace, expect, expect_error, run
from layouts import Shape, compare, layouts, pairwise

CASES = os.path.dirname(GOLDEN)


def check(name, model, batch, worlds, extra=()):
    with tempfile.TemporaryDirectory(prefix="ot_layouts.", dir="/tmp") as directory:
        for world in worlds:
            chosen = pairwise(layouts(Shape(model), world, ("none", "selective", "full")))
            results = compare(model, batch, world, chosen, directory, extra)
            print(f"{name}: {len(results)} layouts of {world} ranks, worst tensor {max(e for _, e in results):.1e}")


for family, worlds in (("qwen3_vl", (2, 4, 8)), ("qwen2_5_vl", (4, 6)), ("qwen2_vl", (4,))):
    check(family, f"{CASES}/{family}/model", f"{CASES}/{family}/batch.safetensors", worlds)
# Packed micro-batches, and another order of the ranks.
check("packed", f"{GOLDEN}/model", f"{GOLDEN}/batch.safetensors", (4,),
      ["--micro-batch-tokens", "300", "--set", "parallel.order=[pp, dp, cp, tp]"])

# A sparse model of its own, with a balance loss.
w = Workspace(count=8)
made = w.train("run.steps=1", "optim.warmup_steps=0", "model.arch.family=qwen3_vl_moe", "model.arch.text.num_experts=4",
               "model.arch.text.num_experts_per_tok=2", "model.arch.text.moe_intermediate_size=24",
               "model.arch.text.router_aux_loss_coef=0.1", "model.arch.text.decoder_sparse_step=1",
               "model.arch.tie_word_embeddings=false", "model.arch.text.num_hidden_layers=3", "model.arch.vision.out_hidden_size=32",
               "checkpoint.hf_export=true")
expect(made.code == 0, "a sparse model trains", made)
model = w.path("run/hf")
config, golden = (json.load(open(f"{m}/config.json")) for m in (model, f"{GOLDEN}/model"))
for key in golden:
    if key.endswith("_token_id"):
        config[key] = golden[key]
json.dump(config, open(f"{model}/config.json", "w"))
check("qwen3_vl_moe", model, f"{GOLDEN}/batch.safetensors", (4, 8))
w.remove()

# What does not split is refused, with its arithmetic, before anything is set up.
for ranks, sets, words in ((3, ["parallel.llm.tp=3"], ["parallel.llm.tp", "4 query heads", "tp=3"]),
                           (2, ["parallel.llm.tp=4"], ["world of 2 ranks", "4"]),
                           (8, ["parallel.llm.pp=8"], ["parallel.llm.pp", "4 layers"]),
                           (2, ["parallel.llm.pp=2", "parallel.encoder.placement=joint"], ["placement"]),
                           (2, ["parallel.llm.ep=2"], ["parallel.llm.ep"]),
                           (2, ["parallel.llm.zero_stage=3", "parallel.llm.pp=2"], ["parallel.llm.zero_stage: 3 needs pp=1"])):
    args = ["parity", "--model", f"{GOLDEN}/model", "--batch", f"{GOLDEN}/batch.safetensors"]
    for one in sets:
        args += ["--set", one]
    expect_error(run(args, ranks=ranks), 2, *words)
