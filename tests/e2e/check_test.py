"""What `check` says of a job that it does not run: the memory it expects is what runs of that job then hold, over several
layouts, and layouts that do not split are refused first."""
import re

from harness import Workspace, expect, expect_error, run

w = Workspace()

# Wide enough that parameters, activations and scratch all count.
WIDE = [
    "model.arch.text={hidden_size: 192, num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 4, "
    "head_dim: 24, intermediate_size: 384, max_position_embeddings: 512, "
    "rope_parameters: {rope_theta: 10000.0, mrope_section: [4, 4, 4]}}",
    "model.arch.vision={depth: 2, hidden_size: 96, num_heads: 4, intermediate_size: 192, patch_size: 16, "
    "spatial_merge_size: 2, num_position_embeddings: 16, deepstack_visual_indexes: [0]}",
    "run.steps=2", "checkpoint.every=0", "batch.samples=16"
]


def check(ranks, sets, *args):
    return run(["check", w.path("job.yaml"), "--world", str(ranks), *args, *[a for s in sets for a in ("--set", s)]])


def expected_bytes(text):
    """The total of rank 0, which is on pipeline rank 0, in bytes."""
    return float(re.search(r"^  total +([0-9.]+)", text, re.M).group(1)) * 2**20


EXPERTS = [
    "model.arch.family=qwen3_vl_moe",
    WIDE[0][:-1] + ", num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 96, decoder_sparse_step: 1, "
    "norm_topk_prob: true, mlp_only_layers: []}"
]
NARROW = "batch.micro_batch_tokens=128"  # several micro-batches

LAYOUTS = [
    ("one", 1, []),
    ("fp32", 1, ["precision=fp32"]),
    ("frozen", 1, ["train.llm.freeze=true", NARROW]),
    ("dp", 2, []),
    ("tp", 2, ["parallel.llm.tp=2"]),
    ("ring", 2, ["parallel.llm.cp=2", "parallel.llm.cp_method=ring"]),
    ("ulysses", 2, ["parallel.llm.cp=2", "parallel.llm.cp_method=ulysses"]),
    ("pp", 2, ["parallel.llm.pp=2", NARROW]),
    ("uneven", 2, ["parallel.llm.pp=2", "parallel.llm.stage_layers=[1, 3]", NARROW]),
    ("zero_bubble", 2, ["parallel.llm.pp=2", "parallel.llm.schedule=zero_bubble", NARROW]),
    ("vpp", 2, ["parallel.llm.pp=2", "parallel.llm.vpp=2", NARROW]),
    ("tp_cp_pp", 8, ["parallel.llm.tp=2", "parallel.llm.cp=2", "parallel.llm.pp=2", "precision=fp32", NARROW]),
    ("sharded", 2, ["parallel.llm.zero_stage=3", NARROW]),
    ("sharded_fp32", 4, ["parallel.llm.zero_stage=3", "parallel.llm.tp=2", "precision=fp32", NARROW]),
    ("sharded_frozen", 2, ["parallel.llm.zero_stage=3", "train.llm.freeze=true", NARROW]),
    ("experts", 1, EXPERTS),
    ("ep", 2, EXPERTS + ["parallel.llm.ep=2"]),
    ("sharded_ep", 4, EXPERTS + ["parallel.llm.zero_stage=3", "parallel.llm.ep=2", NARROW]),
    ("ep_pp", 4, EXPERTS + ["parallel.llm.ep=2", "parallel.llm.pp=2", NARROW]),
]

for name, ranks, layout in LAYOUTS:
    sets = WIDE + layout + [f"run.out={w.path(name)}"]
    told = check(ranks, sets)
    expect(told.code == 0, f"check of {name}", told)
    trained = w.train(*sets, ranks=ranks)
    expect(trained.code == 0, f"{name} runs", trained)
    want, peak = expected_bytes(told.out), trained.records("step")[-1]["mem_bytes"]
    print(f"{name}: {want / 2**20:.3f} MiB expected, {peak / 2**20:.3f} MiB held ({100 * (want / peak - 1):+.2f} %)")
    # Only where rows go to experts is not known before.
    bound = 0.05 if "num_experts" in "".join(layout) else 0.005
    expect(abs(want - peak) <= bound * peak, f"{name}: memory within {100 * bound} %", told)

# The layout is drawn and what travels is told, by nodes.
deep = WIDE + ["parallel.llm.tp=2", "parallel.llm.pp=2", "batch.samples=64"]
apart, together = check(16, deep, "--ranks-per-node", "4"), check(16, deep, "--ranks-per-node", "16")
for told in (apart, together):
    expect(told.code == 0, "check of 16 ranks", told)
expect("  node 3    rank  12  13  14  15\n" in apart.out and "node 1" not in together.out, "nodes are drawn", apart)
expect("  pp 1   layers 2-3 (2 of 4); head (tied, a copy)\n" in apart.out, "stages are drawn", apart)


def across(result):
    """By axis: the percentage that goes to other nodes."""
    table = result.out[result.out.index("  MiB sent"):result.out.index("# data")]
    return {line[2:29].strip(): line.split()[-2] for line in table.splitlines()[1:] if line}


expect(across(apart)["tp"] == "0" and across(apart)["pp"] == "100", f"tp in a node, pp between: {across(apart)}", apart)
expect(set(across(together).values()) == {"0"}, f"nothing leaves the only node: {across(together)}", together)

# Sharded layers: less is held, their slots are told, and values travel in each micro-batch.
whole, sharded = (check(8, WIDE + [f"parallel.llm.zero_stage={stage}", NARROW], "--ranks-per-node", "4") for stage in (1, 3))
for told in (whole, sharded):
    expect(told.code == 0, "check of 8 ranks", told)
expect(expected_bytes(sharded.out) < expected_bytes(whole.out), "sharded layers are smaller", sharded)
expect("  layer slots" in sharded.out and "layer slots" not in whole.out, "slots are told", sharded)


def sent(result, axis):
    return float(re.search(rf"^  {re.escape(axis)} .*", result.out, re.M).group(0).split()[-4])


expect(sent(sharded, "slices (dp*cp)") > 1.2 * sent(whole, "slices (dp*cp)"), "and more is sent", sharded)

# Recomputation, as a device of that size would choose.
small, large = check(1, WIDE, "--device-gib", "0.05"), check(1, WIDE, "--device-gib", "80")
expect("recomputation: full in the first" in small.out and "do not fit" in small.out, "a small device", small)
expect("recomputation: none" in large.out, "a large device", large)

# What does not split is refused before anything else is looked at.
for ranks, sets, words in [(3, ["parallel.llm.tp=3"], ["parallel.llm.tp", "8 query heads", "tp=3"]),
                           (5, ["parallel.llm.pp=5"], ["parallel.llm.pp", "4 layers"]),
                           (2, ["parallel.llm.pp=2", "parallel.llm.stage_layers=[2, 3]"], ["stage_layers", "5 layers"]),
                           (3, ["parallel.llm.cp=3", "parallel.llm.cp_method=ulysses"], ["parallel.llm.cp", "cp=3"]),
                           (2, ["parallel.llm.ep=2"], ["parallel.llm.ep", "no layer"]),
                           (2, ["parallel.llm.pp=2", "parallel.llm.zero_stage=3"], ["parallel.llm.zero_stage: 3 needs pp=1"])]:
    refused = check(ranks, WIDE + sets + ["data.image.min_pixels=7"])
    expect_error(refused, 2, *words)
    expect(refused.out == "", "nothing was printed", refused)

w.remove()
