#!/usr/bin/env bash
# mpi_test.sh RANKS BINARY [ARGS...]: runs a binary as RANKS processes of this machine, however few cores it has.
set -uo pipefail
ranks=$1
shift
command -v mpirun >/dev/null || { echo "mpirun is missing: tools/setup installs it" >&2; exit 1; }
# Open MPI names its sockets and shared memory after the pid of mpirun, which sandboxes of tests that run at the same time
# share: each run gets folders of its own. Short paths, for they hold Unix sockets.
export TMPDIR OMP_NUM_THREADS=1
TMPDIR=$(mktemp -d /tmp/ot.XXXXXX)
memory=$(mktemp -d /dev/shm/ot.XXXXXX)
trap 'rm -rf "$TMPDIR" "$memory"' EXIT
mpirun --allow-run-as-root --oversubscribe --bind-to none --mca btl self,vader --mca mpi_yield_when_idle 1 \
  --mca btl_vader_backing_directory "$memory" -n "$ranks" "$@"
