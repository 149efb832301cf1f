"""Finds the machine's CUDA toolkit: the repository @local_cuda.

The toolkit is looked for in $CUDA_HOME, then /usr/local/cuda. Without one (or with OMNITRAIN_CUDA=0) the same targets
exist and are empty, and the program is built for the CPU alone.
"""

_BUILD = """
package(default_visibility = ["//visibility:public"])

cc_library(
    name = "cudart",
    {headers}
    linkopts = [{cudart}],
)

cc_library(
    name = "cublas_lt",
    linkopts = [{cublas_lt}],
    deps = [":cudart"],
)

cc_library(
    name = "nccl",
    linkopts = [{nccl}],
    deps = [":cudart"],
)
"""

_DEFS = """
HAS_CUDA = {has_cuda}
NVCC = "{nvcc}"
CUDA_INCLUDE = "{include}"

def if_cuda(with_cuda, without_cuda = []):
    return with_cuda if HAS_CUDA else without_cuda
"""

def _link(home, has_cuda, library):
    if not has_cuda:
        return ""
    return '"-L{home}/lib64", "-Wl,-rpath,{home}/lib64", "-l{library}"'.format(home = home, library = library)

def _local_cuda_impl(ctx):
    home = ctx.os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = home + "/bin/nvcc"
    has_cuda = ctx.os.environ.get("OMNITRAIN_CUDA", "1") != "0" and ctx.path(nvcc).exists
    headers = ""
    if has_cuda:
        ctx.symlink(home + "/include", "include")
        headers = """hdrs = glob(["include/**"]), includes = ["include"],"""
    ctx.file("BUILD", _BUILD.format(
        headers = headers,
        cudart = _link(home, has_cuda, "cudart"),
        cublas_lt = _link(home, has_cuda, "cublasLt"),
        nccl = _link(home, has_cuda, "nccl"),
    ))
    ctx.file("defs.bzl", _DEFS.format(has_cuda = has_cuda, nvcc = nvcc, include = home + "/include"))

local_cuda = repository_rule(
    implementation = _local_cuda_impl,
    environ = ["CUDA_HOME", "OMNITRAIN_CUDA"],
    local = True,
)
