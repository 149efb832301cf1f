"""Test rules: one line for what every test here has in common."""

def ot_test(name, srcs = None, deps = [], **kwargs):
    """A Catch2 test; the source is NAME.cc unless given."""
    native.cc_test(
        name = name,
        srcs = srcs or [name + ".cc"],
        deps = deps + ["//tests/support:catch"],
        **kwargs
    )

def ot_mpi_test(name, ranks, srcs = None, deps = [], **kwargs):
    """A Catch2 test that runs as several MPI ranks of this machine: every rank runs every case.

    The cases get their world from MpiTestWorld() of tests/support/mpi_world.h; the source is NAME.cc unless given.
    """
    native.cc_binary(
        name = name + "_ranks",
        testonly = True,
        srcs = srcs or [name + ".cc"],
        deps = deps + ["//tests/support:mpi_main"],
    )
    native.sh_test(
        name = name,
        timeout = kwargs.pop("timeout", "short"),
        srcs = ["//tests/support:mpi_test.sh"],
        args = [str(ranks), "$(location :{}_ranks)".format(name)],
        data = [":{}_ranks".format(name)],
        **kwargs
    )
