# shellcheck shell=bash
# Sourced by the other scripts: messages, and steps that show that they are alive. Defines functions, does nothing.

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$(basename "$0"): $*"
  exit 1
}

# The state that outlives one run: downloads, sample image, Node 24.
state_dir() { printf '%s\n' "${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ocifs"; }

# as_root COMMAND...: runs it as root, by sudo if that is needed.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "cannot run '$*': this needs root, and there is no sudo; run it as root"
  fi
}

# wait_for_step PID LOG TITLE: shows elapsed time and the log's last line until PID ends: every second on a terminal, where
# the line is drawn over, every five seconds elsewhere.
wait_for_step() {
  local pid=$1 log=$2 title=$3 started=$SECONDS period=5 last
  if [ -t 2 ]; then period=1; fi
  while kill -0 "$pid" 2>/dev/null; do
    # Ends with the step, or after one period.
    timeout "$period" tail --pid="$pid" -s 0.1 -f /dev/null 2>/dev/null || true
    kill -0 "$pid" 2>/dev/null || break
    last=$(tail -c 400 "$log" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 | tr -cd '[:print:]' | cut -c 1-60) || true
    if [ -t 2 ]; then
      printf '\r\033[K  %s … %d s  %s' "$title" $((SECONDS - started)) "$last" >&2
    else
      printf '  %s … %d s  %s\n' "$title" $((SECONDS - started)) "$last" >&2
    fi
  done
  if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

# step TITLE COMMAND...: runs it with its output in a log file. Says how long it took if that was more than a second, and
# shows the log's end if it failed. The command gets no standard input.
step() {
  local title=$1 log status=0 started=$SECONDS
  shift
  log=$(mktemp "${TMPDIR:-/tmp}/ocifs-step.XXXXXX")
  # A process group of its own, so that stop_step ends the command together with what it started.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  local pid=$!
  set +m
  running_step=$pid
  running_log=$log
  wait_for_step "$pid" "$log" "$title"
  wait "$pid" || status=$?
  running_step=
  if [ "$status" != 0 ]; then
    say "  $title: failed (exit code $status); the end of its output:"
    tail -n 30 "$log" >&2
  elif [ $((SECONDS - started)) -ge 1 ]; then
    say "  $title: done in $((SECONDS - started)) s"
  else
    say "  $title: done"
  fi
  rm -f "$log"
  return "$status"
}

# For `trap stop_step EXIT`: ends the step that is running, if one is.
stop_step() {
  if [ -z "${running_step:-}" ]; then return 0; fi
  kill -- "-$running_step" 2>/dev/null || true
  rm -f "$running_log"
}

# Node 20.19 or newer with npm, or a sentence.
require_node() {
  command -v node >/dev/null || die "node is missing; install Node 20.19 or newer with npm"
  command -v npm >/dev/null || die "npm is missing; install it beside Node"
  node -e 'const [major, minor] = process.versions.node.split(".").map(Number); process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1)' ||
    die "node $(node --version) is too old; install Node 20.19 or newer"
}

# npm ci, only when node_modules is older than the lock file. npm writes node_modules/.package-lock.json at its end.
install_node_modules() {
  if [ node_modules/.package-lock.json -nt package-lock.json ]; then return 0; fi
  npm ci --no-audit --no-fund --loglevel=warn
  # npm may give the file the lock file's own time.
  touch node_modules/.package-lock.json
}
