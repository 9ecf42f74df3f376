# Sourced by the experiment scripts: their paths as arguments or environment variables, the interpreter, and KTH.

# take_paths NAME... -- ARGUMENT...: the leading arguments that are no flags become the variables NAME..., in order;
# the rest goes to the array MORE.
take_paths() {
  local names=()
  while [ "$1" != -- ]; do names+=("$1"); shift; done
  shift
  for name in "${names[@]}"; do
    if [ $# = 0 ]; then break; fi
    case "$1" in
      --*) break ;;
      "") shift ;;  # an empty argument: the default
      *) printf -v "$name" %s "$1"; shift ;;
    esac
  done
  MORE=("$@")
}

# PYTHON if the user set it, else the project's environment, else the one in use (as on AI Studio).
runtime_python() {
  if [ -n "${PYTHON:-}" ]; then
    echo "$PYTHON"
  elif [ -x "${E3D_VENV:-$ROOT/.venv}/bin/python" ]; then
    echo "${E3D_VENV:-$ROOT/.venv}/bin/python"
  else
    echo python
  fi
}

# kth_data: the folder of KTH that find_kth.py finds for DATA. Where flags in MORE name the data set, DATA as it is.
kth_data() {
  case " ${MORE[*]} " in
    *" --train_data_paths"[\ =]* | *" --valid_data_paths"[\ =]* | *" --help "*) echo "${DATA:-}" ;;
    *) "$(runtime_python)" "$ROOT/scripts/find_kth.py" "${DATA:-}" ;;
  esac
}
