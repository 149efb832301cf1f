# shellcheck shell=bash
# Sourced by the batch scripts: runs a launcher to its end and puts an unfinished job back into the queue.
#
# run_and_requeue LAUNCHER [ARGS...]
#   USR1 and TERM reach the launcher as USR1: every rank saves after its step and exits. TERM itself would not do, for
#   mpirun answers it by ending the ranks. USR2 is passed on as it is: save and stay out of the queue.
#   Returns the launcher's exit code. Requeued are
#     138, 143  saved after USR1 or TERM: the time limit is near, or the job is being preempted
#     6         communication failed, say by a bad node; at most $OMNITRAIN_MAX_RESTARTS (20) restarts of any kind
#   and nothing else: 0 is done, 2 to 5 would fail again, 140 was asked to stop, 1 and 137 want a look first.
run_and_requeue() {
  local launcher="" pending="" is_interrupted="" code=0 restarts=${SLURM_RESTART_COUNT:-0}
  trap 'pass_on USR1' USR1 TERM
  trap 'pass_on USR2' USR2
  "$@" &
  launcher=$!
  if [ -n "$pending" ]; then pass_on "$pending"; fi
  while :; do  # a trap ends `wait` early; asked again, it gives the launcher's own code
    is_interrupted="" code=0
    wait "$launcher" || code=$?
    if [ -z "$is_interrupted" ]; then break; fi
  done
  trap '' USR1 USR2 TERM

  case $code in
    138 | 143) ;;
    6) if [ "$restarts" -ge "${OMNITRAIN_MAX_RESTARTS:-20}" ]; then
         echo "requeue: communication failed, and the job was restarted $restarts times before: giving up" >&2
         return "$code"
       fi ;;
    *) return "$code" ;;
  esac
  # A job that scancel or the time limit has ended is not running any more: it must not come back to life.
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "requeue: exit code $code after $restarts restarts: job $SLURM_JOB_ID goes back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}

# Traps see the variables of run_and_requeue, which they interrupt.
pass_on() {
  is_interrupted=1
  if [ -z "$launcher" ]; then pending=$1; else kill -"$1" "$launcher" 2>/dev/null || true; fi
}
