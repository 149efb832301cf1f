"""The golden cases under several layouts and precisions, and faults that the bounds must catch."""
import json
import os
import shutil
import struct
import tempfile

from harness import GOLDEN, close, expect, read_safetensors, run, write_safetensors

work = tempfile.mkdtemp(prefix="ot_parity.", dir="/tmp")
REFERENCE = ["--batch", f"{GOLDEN}/batch.safetensors", "--expected", f"{GOLDEN}/expected.safetensors"]
CURVE = ["--curve", f"{GOLDEN}/expected.json"]


def parity(*args, ranks=0, model=f"{GOLDEN}/model"):
    return run(["parity", "--model", model, *args], ranks=ranks)


for ranks in (1, 2, 4):
    result = parity(*REFERENCE, *CURVE, "--precision", "fp64", "--report", f"{work}/r.json", ranks=ranks)
    expect(result.code == 0, f"fp64 parity on {ranks} ranks", result)
    report = json.load(open(f"{work}/r.json"))["layouts"][0]
    expect(report["num_compared"] == 199 and not report["not_computed"], "every tensor of the reference is compared", result)

result = parity(*REFERENCE, "--precision", "fp32", "--report", f"{work}/r.json")
expect(result.code == 0, "fp32 parity", result)
worst = max(t["error"] for t in json.load(open(f"{work}/r.json"))["layouts"][0]["tensors"])
expect(worst > 1e-7, "fp32 is computed in fp32", result)
result = parity(*REFERENCE, "--precision", "fp64", "--repeat", "3", "--micro-batch-tokens", "60", ranks=2)
expect(result.code == 0, "packed and repeated", result)

# One rank against two to the last digits.
result = parity(*REFERENCE, "--dump", f"{work}/one.safetensors")
expect(result.code == 0 and os.path.exists(f"{work}/one.safetensors"), "dump", result)
two = ["--batch", f"{GOLDEN}/batch.safetensors", "--expected", f"{work}/one.safetensors", "--tolerance", "1e-9", "--loss-tolerance", "1e-12"]
result = parity(*two, ranks=2)
expect(result.code == 0, "two ranks equal one", result)

# The older families: other towers, windows, chunked M-RoPE, both naming schemes.
def case_of(family):
    case = os.path.join(os.path.dirname(GOLDEN), family)
    return case, ["--batch", f"{case}/batch.safetensors", "--expected", f"{case}/expected.safetensors"]


for family, tensors in (("qwen2_vl", 111), ("qwen2_5_vl", 123)):
    case, reference = case_of(family)
    for args, ranks in ((["--curve", f"{case}/expected.json"], 2), (["--repeat", "2", "--micro-batch-tokens", "100"], 0)):
        result = parity(*reference, *args, "--precision", "fp64", "--report", f"{work}/r.json", ranks=ranks, model=f"{case}/model")
        report = json.load(open(f"{work}/r.json"))["layouts"][0]
        expect(result.code == 0 and not report["not_computed"], f"fp64 parity of {family}", result)
        expect(ranks == 0 or report["num_compared"] == tensors, f"every tensor of {family} is compared", result)
    result = parity(*reference, "--precision", "fp32", model=f"{case}/model")
    expect(result.code == 0, f"fp32 parity of {family}", result)


# Faults of one place: each must be seen.
def planted(name, change_config=None, change_weight=None, family="qwen3_vl"):
    model = f"{work}/{name}"
    case, reference = case_of(family)
    shutil.copytree(f"{case}/model", model)
    os.chmod(model, 0o755)
    for file in os.listdir(model):
        os.chmod(f"{model}/{file}", 0o644)
    if change_config:
        config = json.load(open(f"{model}/config.json"))
        change_config(config)
        json.dump(config, open(f"{model}/config.json", "w"))
    if change_weight:
        header, data = read_safetensors(f"{model}/model.safetensors")
        begin = header[change_weight]["data_offsets"][0]
        value = struct.unpack_from("<f", data, begin)[0]
        struct.pack_into("<f", data, begin, value + 1e-3)
        write_safetensors(f"{model}/model.safetensors", header, data)
    result = parity(*reference, "--precision", "fp64", model=model)
    expect(result.code == 5 and "FAIL" in result.err, f"{name} is caught", result)


planted("epsilon", lambda c: c["text_config"].update(rms_norm_eps=1e-5))
planted("activation", lambda c: c["vision_config"].update(hidden_act="gelu"))
planted("theta", lambda c: c["text_config"]["rope_parameters"].update(rope_theta=4900000.0))
planted("window", lambda c: c["vision_config"].update(window_size=24), family="qwen2_5_vl")
planted("full_blocks", lambda c: c["vision_config"].update(fullatt_block_indexes=[0, 2]), family="qwen2_5_vl")
planted("section", lambda c: c["text_config"]["rope_parameters"].update(mrope_section=[1, 2, 1]), family="qwen2_vl")
planted("tower_activation", lambda c: c["vision_config"].update(hidden_act="gelu"), family="qwen2_vl")
planted("weight", change_weight="model.visual.pos_embed.weight")

# A grid that does not match the image tokens is refused by name.
header, data = read_safetensors(f"{GOLDEN}/batch.safetensors")
begin = header["1.image_grid_thw"]["data_offsets"][0]
struct.pack_into("<qqq", data, begin, 1, 2, 12)
write_safetensors(f"{work}/grid.safetensors", header, data)
result = parity("--batch", f"{work}/grid.safetensors", "--expected", f"{GOLDEN}/expected.safetensors")
expect(result.code in (0, 5), "2 x 12 patches are as many rows: only the numbers differ", result)
struct.pack_into("<qqq", data, begin, 1, 4, 4)
write_safetensors(f"{work}/grid.safetensors", header, data)
result = parity("--batch", f"{work}/grid.safetensors", "--expected", f"{GOLDEN}/expected.safetensors")
expect(result.code in (3, 4) and "1." in result.err, "a wrong grid is refused", result)

shutil.rmtree(work)
print("parity: passed")
