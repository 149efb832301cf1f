"""Test rules: one line for what every test here has in common."""

def ot_test(name, srcs = None, deps = [], **kwargs):
    """A Catch2 test; the source is NAME.cc unless given."""
    native.cc_test(
        name = name,
        srcs = srcs or [name + ".cc"],
        deps = deps + ["//tests/support:catch"],
        **kwargs
    )
