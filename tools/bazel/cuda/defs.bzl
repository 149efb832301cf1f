"""cuda_library: .cu files compiled with nvcc, linked like any other library; nothing without a CUDA toolkit."""

load("@local_cuda//:defs.bzl", "CUDA_INCLUDE", "HAS_CUDA", "NVCC")

# Hopper with its own instructions, and plain code for everything from Ampere on.
_ARCHITECTURES = [
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_80,code=[sm_80,compute_80]",
]

_FLAGS = [
    "-std=c++17",
    "-O3",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-Wall,-Wextra,-fopenmp",
    "-Werror=all-warnings",
    "-I" + CUDA_INCLUDE,
]

def _cuda_objects_impl(ctx):
    context = cc_common.merge_cc_infos(cc_infos = [d[CcInfo] for d in ctx.attr.deps]).compilation_context
    search = [[flag, path] for flag, paths in [
        ("-I", context.quote_includes.to_list()),
        ("-I", context.includes.to_list()),
        ("-isystem", context.system_includes.to_list()),
    ] for path in paths]
    objects = []
    for source in ctx.files.srcs:
        if source.extension != "cu":
            continue
        out = ctx.actions.declare_file(ctx.label.name + "/" + source.basename.replace(".cu", ".o"))
        objects.append(out)
        ctx.actions.run(
            executable = NVCC,
            arguments = _FLAGS + _ARCHITECTURES + [x for pair in search for x in pair] +
                        ["-c", source.path, "-o", out.path],
            inputs = depset(ctx.files.srcs, transitive = [context.headers]),
            outputs = [out],
            use_default_shell_env = True,
            mnemonic = "Nvcc",
            progress_message = "Compiling %s" % source.short_path,
        )
    return [DefaultInfo(files = depset(objects))]

_cuda_objects = rule(
    implementation = _cuda_objects_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu", ".cuh", ".h"]),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

def cuda_library(name, srcs, hdrs = [], deps = [], **kwargs):
    """A cc_library of .cu files (and the .cuh and .h that they include)."""
    if not HAS_CUDA:
        native.cc_library(name = name, **kwargs)
        return
    _cuda_objects(name = name + "_objects", srcs = srcs + hdrs, deps = deps)
    native.cc_library(
        name = name,
        srcs = [":" + name + "_objects"],
        hdrs = hdrs,
        deps = deps + ["@local_cuda//:cudart"],
        **kwargs
    )
