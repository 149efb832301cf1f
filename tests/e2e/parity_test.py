"""The golden Qwen3-VL under several layouts and precisions, and faults that the bounds must catch."""
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

result = parity(*REFERENCE, "--precision", "fp32")
expect(result.code == 0, "fp32 parity", result)
result = parity(*REFERENCE, "--precision", "fp64", "--repeat", "3", "--micro-batch-tokens", "60", ranks=2)
expect(result.code == 0, "packed and repeated", result)

# One rank against two to the last digits.
result = parity(*REFERENCE, "--dump", f"{work}/one.safetensors")
expect(result.code == 0 and os.path.exists(f"{work}/one.safetensors"), "dump", result)
two = ["--batch", f"{GOLDEN}/batch.safetensors", "--expected", f"{work}/one.safetensors", "--tolerance", "1e-9", "--loss-tolerance", "1e-12"]
result = parity(*two, ranks=2)
expect(result.code == 0, "two ranks equal one", result)

# Faults of one place: each must be seen.
def planted(name, change_config=None, change_weight=None):
    model = f"{work}/{name}"
    shutil.copytree(f"{GOLDEN}/model", model)
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
    result = parity(*REFERENCE, "--precision", "fp64", model=model)
    expect(result.code == 5 and "FAIL" in result.err, f"{name} is caught", result)


planted("epsilon", lambda c: c["text_config"].update(rms_norm_eps=1e-5))
planted("activation", lambda c: c["vision_config"].update(hidden_act="gelu"))
planted("theta", lambda c: c["text_config"]["rope_parameters"].update(rope_theta=4900000.0))
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
print("parity: 13 passed, 0 failed")
