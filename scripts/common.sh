# Sourced by the scripts beside it: the repository's root, and a virtual environment with the packages.
# Variables a user may set: PYTHON (the interpreter to make the environment with), E3D_VENV (where it lies).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${E3D_VENV:-$ROOT/.venv}"

say() { printf '\n== %s\n' "$*"; }

# one_at_a_time COMMAND...: run it while no other script makes the environment or installs into it.
one_at_a_time() {
  local folder
  folder="$(dirname "$VENV")"
  if ! mkdir -p "$folder" || [ ! -w "$folder" ]; then
    if [ -x "$VENV/bin/python" ]; then  # one of an administrator's or of conda's: no lock can lie beside it
      "$@"
      return
    fi
    echo "$folder cannot be written; set E3D_VENV to another place for the environment" >&2
    exit 2
  fi
  if command -v flock >/dev/null; then
    (
      flock -n 9 || { say "waiting for another script, which installs into $VENV"; flock 9; }
      "$@"
    ) 9>"$VENV.lock"
    return
  fi
  # macOS has no flock; a folder is made by one script alone.
  (
    mkdir "$VENV.making" 2>/dev/null || {
      say "waiting for another script, which installs into $VENV; if there is none, remove $VENV.making"
      until mkdir "$VENV.making" 2>/dev/null; do sleep 1; done
    }
    trap 'rmdir "$VENV.making"' EXIT
    "$@"
  )
}

# ensure_environment: make the environment if it is missing.
ensure_environment() { one_at_a_time make_environment; }

make_environment() {
  local python="${PYTHON:-python3}"
  if [ ! -x "$VENV/bin/python" ]; then
    "$python" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 13))' || {
      echo "$python is $("$python" --version 2>&1); Paddle needs Python 3.9 to 3.13: set PYTHON, as in PYTHON=python3.11" >&2
      exit 2
    }
    say "making the environment $VENV"
    "$python" -m venv "$VENV" || {
      rm -rf "$VENV"  # half-made
      echo "$python -m venv failed; on Debian or Ubuntu install python3-venv, or set PYTHON to another interpreter" >&2
      exit 2
    }
  fi
}

# ensure_packages FILE...: make the environment if it is missing and install what the requirement files name.
# A second call with the same files installs nothing, writes nothing and needs no network. If Paddle's build for an
# accelerator is there, the one for CPUs, which would overwrite it, is left out.
ensure_packages() {
  local missing=()
  list_missing "$@"
  if [ ${#missing[@]} -gt 0 ]; then
    one_at_a_time install_missing "$@"
  fi
}

# list_missing FILE...: the files of which something is not installed, in the array `missing` of the caller.
list_missing() {
  local file
  missing=()
  for file in "$@"; do
    case "$file" in
      requirements.txt | requirements/paddle-*.txt)
        if compgen -G "$VENV/lib/python3*/site-packages/paddlepaddle_*.dist-info" >/dev/null; then
          file=requirements/base.txt
        fi
        ;;
    esac
    if ! cat "$ROOT"/requirements/base.txt "$ROOT/$file" | cmp -s - "$VENV/.installed-${file##*/}"; then
      missing+=("$file")
    fi
  done
}

install_missing() {
  local file missing=()
  make_environment
  list_missing "$@"  # another script may have installed them by now
  for file in ${missing[@]+"${missing[@]}"}; do
    say "installing the packages of $file (a few minutes the first time)"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -r "$ROOT/$file" || {
      echo "pip could not install the packages of $file; see its message above" >&2
      exit 2
    }
    cat "$ROOT"/requirements/base.txt "$ROOT/$file" > "$VENV/.installed-${file##*/}"
  done
}
