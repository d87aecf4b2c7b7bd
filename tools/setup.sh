#!/bin/sh
# Makes .venv ready. `make setup` calls it, and so do the targets that need it; a second call
# returns at once. A set-up that was cut off is started again from an empty .venv.
#   tools/setup.sh         everything
#   tools/setup.sh ruff    only the linter, so that a fresh checkout is linted in seconds
#   tools/setup.sh docs    only what builds the documentation
# PYTHON, in the environment, chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

py=.venv/bin/python
ready=.venv/.ready           # what the finished .venv was made from
unfinished=.venv/.unfinished # there while a set-up runs, and after one that did not end well

die() {
    printf 'error: %s\n' "$@" >&2
    exit 2
}

step() { # step NAME REMEDY COMMAND...
    name=$1 remedy=$2
    shift 2
    echo "==> set-up: $name"
    "$@" || die "set-up failed at '$name'" "$remedy" "then run the same make command again"
}

usable() { # usable INTERPRETER: prints why not
    command -v "$1" >/dev/null 2>&1 || { echo "there is no such program"; return 1; }
    "$1" - 2>&1 <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit("it is Python %d.%d; 3.11 or newer is needed" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError as e:
    sys.exit("it has no %s (on Debian and Ubuntu: apt install python3-venv)" % e.name)
PY
}

choose_python() { # sets $python
    if [ -n "${PYTHON-}" ]; then set -- "$PYTHON"; else set -- python3 python3.13 python3.12 python3.11; fi
    for python; do
        why=$(usable "$python") && return
        [ -n "${reason-}" ] || reason="$python cannot be used: $why"
    done
    die "$reason" "choose another interpreter: make setup PYTHON=/usr/bin/python3.12"
}

real() { "$1" -c 'import os, sys; print(os.path.realpath(sys.executable))' 2>/dev/null; }

make_venv() { # keeps a sound .venv, and starts again from one that is cut off, broken or another Python's
    [ -z "${PYTHON-}" ] && [ ! -e $unfinished ] && real $py >/dev/null && return
    choose_python
    [ ! -e $unfinished ] && [ "$(real $py)" = "$(real "$python")" ] && return
    step "a new .venv of $("$python" -V)" "look at the message above; PYTHON= chooses another interpreter" \
        "$python" -m venv --clear .venv
}

with_progress() { # pip draws bars on a terminal only; elsewhere this says how far the installation is
    [ -t 1 ] || while sleep 15 >&- 2>&- && kill -0 $$; do echo "    $(du -sh .venv | cut -f1) in .venv"; done &
    ticker=$!
    "$@" && status=0 || status=$?
    kill $ticker 2>/dev/null || true
    return $status
}

pip_install() { $py -m pip install --no-build-isolation "$@"; }

detectron2_is_there() { # the pinned one, or one that its user built in here, which is kept
    pinned=$(sed -n 's/^\(sal-detectron2==[^ ]*\).*/\1/p' requirements/detectron2.txt)
    $py -m pip list --format=freeze | grep -x -e "$pinned" -e "detectron2==.*" >/dev/null
}

install_detectron2() {
    detectron2_is_there || $py -m pip install --no-deps --upgrade --only-binary=:all: \
        --python-version 3.10 --implementation cp --require-hashes -r requirements/detectron2.txt \
        --target "$($py -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
}

network="is the package index within reach, and is there room on the disk (df -h .)?"

if [ "${1-}" = ruff ]; then
    ruff=$(grep '^ruff==' requirements/dev.txt)
    [ "$(.venv/bin/ruff --version 2>/dev/null)" = "ruff ${ruff#ruff==}" ] && exit
    make_venv
    step "$ruff" "$network" $py -m pip install --quiet "$ruff"
    exit
fi

if [ "${1-}" = docs ]; then
    make_venv
    step "what builds the documentation" "$network" $py -m pip install --quiet \
        -r requirements/docs.txt -c requirements/base.txt -c requirements/dev.txt
    exit
fi

made_from="$(pwd) $(cat requirements/*.txt pyproject.toml setup.py tools/setup.sh | cksum)"
make_venv
[ "$(cat $ready 2>/dev/null)" = "$made_from" ] && exit

rm -f $ready
touch $unfinished
trap 'echo "set-up interrupted; the next one starts again" >&2; exit 130' INT TERM
step "pip and setuptools" "$network" \
    $py -m pip install --quiet -r requirements/build.txt
step "PyTorch and what Detectron2 needs (the long step: about 5 GB on disk)" "$network" \
    with_progress pip_install --progress-bar on -r requirements/base.txt
step "Detectron2, checked against its hash" "$network" \
    install_detectron2
step "test tools and reference implementations" "$network" \
    pip_install --quiet --no-deps -r requirements/dev.txt
step "d2_regnet" "look at pyproject.toml and the message above" \
    pip_install --quiet --no-deps -e .
step "a first import" "look at the message above; rm -r .venv starts again" \
    $py -W ignore -c 'import d2_regnet; print("d2_regnet", d2_regnet.__version__, "is ready in .venv")'
echo "$made_from" >$ready
rm $unfinished
