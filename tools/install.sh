# Installs this checkout with one of its extras into a virtual environment, which is created if it
# is absent; done already for this pyproject.toml, nothing. sh tools/install.sh ENVIRONMENT EXTRA
set -eu
environment=$1 extra=$2
python=$environment/bin/python
done=$environment/cdl_d2-$extra.done

fail() {
    echo "install: $*" >&2
    exit 1
}

state() {
    pwd
    "$python" -V
    cksum pyproject.toml
}

# Find a Python older than 3.$1 among the other arguments.
find_python() {
    before=$1 && shift
    for base in "$@"; do
        "$base" -c "import sys; sys.exit(not (3, 10) <= sys.version_info < (3, $before))" \
            2> /dev/null && return
    done
    return 1
}

create() {
    # CompressAI has wheels for 3.10 to 3.12; with a newer Python pip compiles it and its NumPy.
    find_python 13 python3 python3.12 python3.11 python3.10 \
        || find_python 15 python3 python3.13 python3.14 \
        || fail "there is no Python of version 3.10 to 3.14: install 3.12"
    "$base" -m venv "$environment" && return
    rm -rf "$environment"
    fail "$base cannot create $environment: install its venv module (Debian: python3-venv)"
}

[ -x "$python" ] || create
! state | cmp -s - "$done" || exit 0
"$python" -m pip --version > /dev/null 2>&1 || "$python" -m ensurepip
"$python" -m pip install --editable ".[$extra]"
state > "$done"
