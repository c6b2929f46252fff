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

create() {
    for base in python3 python3.14 python3.13 python3.12 python3.11 python3.10 none; do
        "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null && break
    done
    [ $base != none ] || fail "there is no Python of version 3.10 or newer: install one"
    "$base" -m venv "$environment" && return
    rm -rf "$environment"
    fail "$base cannot create $environment: install its venv module (Debian: python3-venv)"
}

[ -x "$python" ] || create
! state | cmp -s - "$done" || exit 0
"$python" -m pip --version > /dev/null 2>&1 || "$python" -m ensurepip
"$python" -m pip install --editable ".[$extra]"
state > "$done"
