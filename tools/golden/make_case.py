#!/usr/bin/env python3
"""Makes a reference case for `omnitrain parity` with Hugging Face transformers: a small random model, a batch, and what
transformers computes of it in float64 (loss, logits, vision tower outputs, gradients, a training curve).

usage: make_case.py OUT_DIR [--family qwen3_vl|qwen2_5_vl|qwen2_vl] [--seed N] [--tied] [--dtype float32|bfloat16]
                    [--text k=v,...] [--vision k=v,...]       lists as a/b/c, grids of images as t/h/w
Needs torch, transformers >= 5 and safetensors; the product and its tests do not.
"""
import argparse
import json
import os

import torch
import transformers as T
from safetensors.torch import load_file, save_file

IMAGE, VIDEO, START, END = 300, 301, 302, 303
MERGE = 2


def overrides(text):
    return {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in text.split(",") if pair)} if text else {}


FAMILIES = {"qwen3_vl": (T.Qwen3VLConfig, T.Qwen3VLForConditionalGeneration),
            "qwen2_5_vl": (T.Qwen2_5_VLConfig, T.Qwen2_5_VLForConditionalGeneration),
            "qwen2_vl": (T.Qwen2VLConfig, T.Qwen2VLForConditionalGeneration)}


def make_config(args):
    is_qwen3 = args.family == "qwen3_vl"
    text = dict(vocab_size=320, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                intermediate_size=96, max_position_embeddings=4096, rms_norm_eps=1e-6)
    if is_qwen3:
        text["head_dim"] = 16
    text.update(overrides(args.text))
    half = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"]) // 2
    text["rope_parameters"] = dict(rope_type="default", mrope_section=[half - 2 * (half // 3), half // 3, half // 3], rope_theta=5e6)
    if is_qwen3:
        text["rope_parameters"]["mrope_interleaved"] = True
    vision = dict(depth=4, num_heads=4)
    if is_qwen3:
        vision.update(hidden_size=48, intermediate_size=96, out_hidden_size=text["hidden_size"], patch_size=16,
                      num_position_embeddings=64, deepstack_visual_indexes=[0, 2])
    elif args.family == "qwen2_5_vl":
        vision.update(hidden_size=48, intermediate_size=100, out_hidden_size=text["hidden_size"], patch_size=14, window_size=56,
                      fullatt_block_indexes=[1, 3], tokens_per_second=2)
    else:
        vision.update(embed_dim=48, hidden_size=text["hidden_size"], mlp_ratio=2, patch_size=14)
    for key, value in overrides(args.vision).items():
        vision[key] = [int(x) for x in value.split("/")] if isinstance(value, str) and "/" in value else value
    return FAMILIES[args.family][0](text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
                                    vision_start_token_id=START, vision_end_token_id=END, tie_word_embeddings=args.tied)


def make_sample(family, grids, video, num_text, patch_dim):
    """Text, images, more text. A video of Qwen3-VL has a text token before each frame, as its timestamps would be; of the older
    families it is one run."""
    ids = [torch.randint(0, 299, (num_text,))]
    for _, h, w in grids:
        ids += [torch.tensor([START]), torch.full((h * w // MERGE**2,), IMAGE), torch.tensor([END]), torch.randint(0, 299, (2,))]
    if video:
        t, h, w = video
        runs, frames = (t, 1) if family == "qwen3_vl" else (1, t)
        for _ in range(runs):
            ids += [torch.randint(0, 299, (1,)), torch.tensor([START]), torch.full((frames * h * w // MERGE**2,), VIDEO), torch.tensor([END])]
    ids += [torch.randint(0, 299, (num_text,))]
    ids = torch.cat(ids)[None]
    labels = ids.clone()
    labels[ids >= 300] = -100
    labels[:, : num_text // 2] = -100
    sample = dict(input_ids=ids, labels=labels)
    if grids:
        sample["image_grid_thw"] = torch.tensor(grids)
        sample["pixel_values"] = torch.randn(sum(t * h * w for t, h, w in grids), patch_dim)
    if video:
        sample["video_grid_thw"] = torch.tensor([video])
        sample["pixel_values_videos"] = torch.randn(video[0] * video[1] * video[2], patch_dim)
    return sample


def inputs_of(sample):
    kw = {k: v.double() if v.is_floating_point() else v for k, v in sample.items() if k != "labels"}
    kw["mm_token_type_ids"] = (kw["input_ids"] == IMAGE).int() + 2 * (kw["input_ids"] == VIDEO).int()
    if "position_ids" in kw:
        kw["position_ids"] = kw["position_ids"][:, None]
    return kw


def loss_of(model, samples):
    total, count, sums, logits = 0, 0, [], []
    for sample in samples:
        out = model(**inputs_of(sample)).logits[0]
        target = sample["labels"][0, 1:]
        one = torch.nn.functional.cross_entropy(out[:-1], target, ignore_index=-100, reduction="sum")
        total, count = total + one, count + int((target != -100).sum())
        sums.append(one.item())
        logits.append(out.detach())
    return total / count, count, sums, logits


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--family", default="qwen3_vl", choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shard", default="5GB")
    parser.add_argument("--text", default="")
    parser.add_argument("--vision", default="")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    config = make_config(args)
    model_class = FAMILIES[args.family][1]
    model = model_class(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, 1.0 if p.dim() == 1 and p.mean() > 0.5 else 0.0, 0.1)
    model_dir = os.path.join(args.out, "model")
    model.to(getattr(torch, args.dtype)).save_pretrained(model_dir, max_shard_size=args.shard)
    model = model_class.from_pretrained(model_dir, dtype=torch.float64, attn_implementation="sdpa").train()

    v = config.vision_config
    patch_dim = v.in_channels * v.temporal_patch_size * v.patch_size**2
    shapes = [([], None, 17), ([(1, 4, 6)], None, 6), ([(1, 2, 2), (1, 8, 4)], None, 9), ([(1, 2, 8)], (2, 4, 4), 5)]
    if args.family == "qwen2_5_vl":
        # Windows that the grid does not fill, several of them, and a video's frames.
        shapes = [([], None, 9), ([(1, 10, 6)], None, 6), ([(1, 2, 2), (1, 8, 4)], None, 5), ([(1, 2, 8)], (2, 6, 4), 5)]
    samples = [make_sample(args.family, *shape, patch_dim) for shape in shapes]
    for sample in samples:
        if "image_grid_thw" in sample or "video_grid_thw" in sample:
            kw = inputs_of(sample)
            positions, _ = model.model.get_rope_index(kw["input_ids"], mm_token_type_ids=kw["mm_token_type_ids"],
                                                      image_grid_thw=kw.get("image_grid_thw"), video_grid_thw=kw.get("video_grid_thw"))
            sample["position_ids"] = positions[:, 0].contiguous()
    save_file({f"{i}.{k}": t.contiguous() for i, s in enumerate(samples) for k, t in s.items()}, os.path.join(args.out, "batch.safetensors"))

    tower = []
    hook = model.model.visual.register_forward_hook(lambda m, a, out: tower.append(out.pooler_output.detach()))
    loss, count, sums, logits = loss_of(model, samples)
    hook.remove()
    loss.backward()
    expected = {f"{i}.logits": x.float() for i, x in enumerate(logits)}
    expected.update({f"vision_out.{j}": x.float().contiguous() for j, x in enumerate(tower)})
    expected.update({f"grad.{n}": p.grad.float().contiguous() for n, p in model.named_parameters() if p.grad is not None})
    save_file(expected, os.path.join(args.out, "expected.safetensors"))

    hyper = dict(lr=1e-3, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1, clip=1.0, steps=args.steps, decay="parameters with 2 or more dimensions")
    groups = [dict(params=[p for p in model.parameters() if p.dim() >= 2], weight_decay=0.1),
              dict(params=[p for p in model.parameters() if p.dim() < 2], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    curve = []
    for _ in range(args.steps):
        optimizer.zero_grad()
        step_loss, _, _, _ = loss_of(model, samples)
        step_loss.backward()
        curve.append([step_loss.item(), float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))])
        optimizer.step()
    with open(os.path.join(args.out, "expected.json"), "w") as f:
        json.dump(dict(family=args.family, transformers=T.__version__, seed=args.seed, loss=loss.item(), loss_sum_per_sample=sums,
                       label_tokens=count, hyper=hyper, curve_loss_gradnorm=curve), f, indent=1)


if __name__ == "__main__":
    main()
