"""Every layout of a model over a number of ranks, and runs of `parity` that compare them with one rank.

As a program: the exhaustive sweep, `tools/dev sweep`.
"""
import argparse
import itertools
import json
import os
import sys
import tempfile
import time

from harness import GOLDEN, expect, run

BOUND = ["--tolerance", "1e-9", "--loss-tolerance", "1e-9"]


def divisors(n):
    return [d for d in range(1, n + 1) if n % d == 0]


class Shape:
    """What of a config.json says how the decoder splits."""

    def __init__(self, model):
        config = json.load(open(f"{model}/config.json"))
        text = config.get("text_config", config)
        self.layers = text["num_hidden_layers"]
        self.heads = text["num_attention_heads"]
        self.kv_heads = text["num_key_value_heads"]
        self.ffn = text["intermediate_size"]
        self.experts = text.get("num_experts") or text.get("num_local_experts") or 0


def layouts(shape, world, recomputes=("auto",)):
    """All layouts of `world` ranks that the model splits over, as dicts of parallel.llm keys and train.recompute."""
    found = []
    for tp, cp, pp in itertools.product(divisors(world), repeat=3):
        if world % (tp * cp * pp):
            continue
        dp = world // (tp * cp * pp)
        if shape.heads % tp or shape.ffn % tp or (shape.kv_heads % tp and tp % shape.kv_heads):
            continue
        heads, kv_heads = shape.heads // tp, max(1, shape.kv_heads // tp)
        methods = ["auto"]
        if cp > 1:
            methods = ["ring"]
            if heads % cp == 0 and (kv_heads % cp == 0 or cp % kv_heads == 0):
                methods.append("ulysses")
        # A sparse layer splits its experts, not their width.
        experts = [ep for ep in divisors(dp * cp * tp) if shape.experts % ep == 0] if shape.experts else [1]
        for method, ep in itertools.product(methods, experts):
            for vpp, schedule in [(1, "auto"), (1, "zero_bubble")] + [(v, "auto") for v in range(2, shape.layers + 1)]:
                if pp * vpp > shape.layers or (pp == 1 and (vpp > 1 or schedule != "auto")):
                    continue
                # A split backward recomputes nothing, and layers are sharded without a pipeline only.
                for recompute, stage in itertools.product(recomputes if schedule == "auto" else ("none",), (1, 3) if pp == 1 else (1,)):
                    found.append({"tp": tp, "cp": cp, "dp": dp, "pp": pp, "vpp": vpp, "ep": ep, "cp_method": method,
                                  "schedule": schedule, "recompute": recompute, "zero_stage": stage})
    return found


def section(key):
    return "train" if key == "recompute" else "parallel.llm"


def pairwise(candidates):
    """A few of the candidates that between them hold every pair of values that any of them holds."""
    def pairs(layout):
        return set(itertools.combinations(sorted(layout.items()), 2))

    left = set().union(*(pairs(c) for c in candidates))
    chosen = []
    while left:
        best = max(candidates, key=lambda c: len(pairs(c) & left))
        chosen.append(best)
        left -= pairs(best)
    return chosen


def num_samples(batch):
    from harness import read_safetensors
    header, _ = read_safetensors(batch)
    return sum(1 for name in header if name.endswith(".input_ids"))


def one_rank(model, batch, directory, repeat, extra=()):
    """Results of one rank, for comparison."""
    dump = os.path.join(directory, f"one-{repeat}.safetensors")
    if not os.path.exists(dump):
        result = run(["parity", "--model", model, "--batch", batch, "--dump", dump, "--repeat", str(repeat), *extra])
        expect(os.path.exists(dump), "results of one rank", result)
    return dump


def compare(model, batch, world, chosen, directory, extra=(), timeout=600):
    """Runs layouts of one world. Returns (layout, worst error over bound) of each; stops the test on a failure."""
    samples = num_samples(batch)
    by_repeat = {}
    for layout in chosen:
        # Each replica gets at least 2 pp micro-batches.
        repeat = max(1, -(-2 * layout["pp"] * layout["dp"] // samples))
        by_repeat.setdefault(repeat, []).append(layout)
    results = []
    for repeat, group in sorted(by_repeat.items()):
        dump = one_rank(model, batch, directory, repeat, extra)
        file, report = os.path.join(directory, "layouts.txt"), os.path.join(directory, "report.json")
        with open(file, "w") as f:
            for layout in group:
                f.write(" ".join(f"{section(key)}.{key}={value}" for key, value in layout.items()) + "\n")
        result = run(["parity", "--model", model, "--batch", batch, "--expected", dump, *BOUND, "--repeat", str(repeat),
                      "--layouts", file, "--report", report, *extra], ranks=world, timeout=timeout)
        expect(result.code == 0, f"{world} ranks, {len(group)} layouts of {model} equal one rank", result)
        reports = json.load(open(report))["layouts"]
        expect(len(reports) == len(group), "a report for each layout", result)
        for layout, one in zip(group, reports):
            expect(one["num_compared"] > 20 and not one["not_computed"], f"{layout}: every tensor is compared", result)
            worst = max(t["error"] for t in one["tensors"])
            results.append((layout, worst))
    return results


def main():
    parser = argparse.ArgumentParser(description="Compares every layout with one rank, in fp64.")
    parser.add_argument("--golden", default=os.path.dirname(GOLDEN), help="folder of cases (model/, batch.safetensors)")
    parser.add_argument("--families", nargs="+", default=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
    parser.add_argument("--worlds", nargs="+", type=int, default=[2, 3, 4, 6, 8])
    parser.add_argument("--sample", type=int, default=0, help="so many layouts of each world, evenly spread; 0: all")
    args = parser.parse_args()
    num_run, worst = 0, 0.0
    for family in args.families:
        case = os.path.join(args.golden, family)
        with tempfile.TemporaryDirectory(prefix="ot_sweep.", dir="/tmp") as directory:
            for world in args.worlds:
                all_of_world = layouts(Shape(f"{case}/model"), world)
                step = max(1, len(all_of_world) // args.sample) if args.sample else 1
                begin = time.time()
                results = compare(f"{case}/model", f"{case}/batch.safetensors", world, all_of_world[::step], directory,
                                  timeout=7200)
                errors = [error for _, error in results]
                num_run, worst = num_run + len(results), max([worst, *errors])
                print(f"{family}: {world} ranks: {len(results)} of {len(all_of_world)} layouts equal one rank, worst "
                      f"tensor {max(errors, default=0):.1e}, {time.time() - begin:.0f} s", flush=True)
    print(f"{num_run} layouts, worst tensor {worst:.1e} (bound 1e-9)")


if __name__ == "__main__":
    sys.exit(main())
