#!/usr/bin/env bash
# Does tinynet run on a Raspberry Pi's system?  Builds Debian root folders of a Pi's architectures, with
# Debian's own NumPy and Pillow, installs the wheel there without network, and under QEMU runs the
# runtime's tests and `tinynet predict`, of every shipped model and of one made int8 here, whose answers
# must be this computer's; once straight from the wheel file, too.  A functional check: emulation says
# nothing about a board's speed.  Not part of continuous integration.
#
#   sudo bench/raspberry_pi.sh [arm64] [armhf]        both, where none is named
#
# Needs root, a network for Debian's packages, 2 GB, and: apt install debootstrap qemu-user-static.
# PYTHON (default python3) has tinynet's requirements, Pillow and hatchling.  FOLDER (default: a
# temporary one, removed at the end) keeps the root folders, which a second run then uses again.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=bookworm
mirror=${MIRROR:-http://deb.debian.org/debian}
python=${PYTHON:-python3}
packages=python3-numpy,python3-pil,python3-venv,python3-pytest,python3-hypothesis
# What prediction rests on, and needs nothing beyond NumPy, Pillow, pytest and Hypothesis.
tests="test_png test_images test_storage test_loading test_models test_layers test_functions_convolution
test_functions_activation test_functions_pooling test_functions_normalization test_kernels test_startup
test_int8_arithmetic test_int8_operations"

fail() { echo "raspberry_pi.sh: $*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || fail "debootstrap and chroot need root"
for tool in debootstrap unshare chroot "$python"; do
    command -v "$tool" > /dev/null || fail "$tool is not installed"
done
[ $# -gt 0 ] || set -- arm64 armhf
for architecture in "$@"; do
    case $architecture in
        arm64) emulator=qemu-aarch64 ;;
        armhf) emulator=qemu-arm ;;
        *) fail "wanted arm64 or armhf, got $architecture" ;;
    esac
    [ "$(uname -m)" = aarch64 ] || [ -e "/proc/sys/fs/binfmt_misc/$emulator" ] ||
        fail "the kernel does not start $architecture programs: install qemu-user-static, mount binfmt_misc"
done

work=${FOLDER:-$(mktemp -d)}
mkdir -p "$work/wheel"
leave() { [ -n "${FOLDER:-}" ] || rm -rf --one-file-system "$work"; }
trap leave EXIT

echo "+ the wheel, cells to classify, and this computer's answers ($(uname -m))"
rm -rf "$work/wheel" "$work/cells"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" .
"$python" -c "
import sys
from tinynet.data.synthetic import write_folder
write_folder(sys.argv[1], 40)" "$work/cells"
here() { (cd "$work/cells" && TINYNET_KERNELS=numpy PYTHONPATH="$OLDPWD" "$python" -m tinynet "$@"); }
here quantize autoencoder --to int8 --data cell_images --part all --out int8.safetensors
models="autoencoder small-cnn cells-70k cells-10k int8.safetensors"
for model in $models; do
    here predict "$model" cell_images --json 2> /dev/null > "$work/$model.json"
done

same_answers() {
    "$python" - "$@" << 'PYTHON'
import json, os, sys
here, there = (json.load(open(path)) for path in sys.argv[1:])
assert [(a["path"], a["label"]) for a in here] == [(a["path"], a["label"]) for a in there], "labels differ"
assert all(answer["error"] is None for answer in here) and here
apart = max(abs(a["probability"] - b["probability"]) for a, b in zip(here, there))
in_int8 = os.path.basename(sys.argv[1]).startswith(("int8", "cells-"))
tolerance = 1e-6 if in_int8 else 1e-5  # int8: the logits are the same, exp may round otherwise
assert apart <= tolerance, f"probabilities differ by {apart}"
print(f"{len(here)} cells, the same labels, probabilities within {apart:.1g} of this computer's")
PYTHON
}

for architecture in "$@"; do
    root=$work/$architecture
    if [ ! -e "$root/built" ]; then
        echo "+ Debian $suite for $architecture"
        rm -rf --one-file-system "$root"
        # In a mount namespace of its own: were it killed, its /proc and /sys would go with it.
        unshare --mount debootstrap --foreign --arch="$architecture" --variant=minbase --include="$packages" \
            "$suite" "$root" "$mirror" > "$work/$architecture.log"
        unshare --mount chroot "$root" /debootstrap/debootstrap --second-stage >> "$work/$architecture.log"
        touch "$root/built"
    fi
    inside() { unshare --net chroot "$root" /usr/bin/env -i PATH=/root/env/bin:/usr/bin:/bin HOME=/root "$@"; }

    rm -rf "$root/root/env" "$root/root/check"
    mkdir -p "$root/root/check/tests"
    cp -r "$work/wheel" "$work/cells" "$root/root/check/"
    cp pyproject.toml "$root/root/check/"
    find tests -maxdepth 1 -name "*.py" ! -name "test_*" -exec cp {} "$root/root/check/tests/" \;  # what tests share
    for name in $tests; do
        cp "tests/$name.py" "$root/root/check/tests/"
    done

    echo "+ $architecture: pip install without network"
    inside python3 -m venv --system-site-packages /root/env
    inside sh -c 'pip install --quiet --no-index --no-deps /root/check/wheel/*.whl'
    inside python -c "
import platform, sys, numpy, PIL, tinynet
print(f'{platform.machine()}, {sys.maxsize.bit_length() + 1} bits, Python {platform.python_version()},',
      f'NumPy {numpy.__version__}, Pillow {PIL.__version__}, tinynet {tinynet.__version__}')"

    echo "+ $architecture: the runtime's tests"
    inside sh -c 'cd /root/check && HYPOTHESIS_PROFILE=default python -m pytest -rs -p no:cacheprovider tests'

    for model in $models; do
        echo "+ $architecture: tinynet predict $model"
        inside sh -c "cd /root/check/cells && tinynet predict $model cell_images --json" \
            2> "$work/messages" > "$work/$model.$architecture.json" || fail "$(cat "$work/messages")"
        same_answers "$work/$model.json" "$work/$model.$architecture.json"
    done
    echo "+ $architecture: tinynet predict autoencoder, from the wheel file, not installed"
    inside sh -c 'cd /root/check/cells && PYTHONPATH=$(echo /root/check/wheel/*.whl) \
        /usr/bin/python3 -m tinynet predict autoencoder cell_images --json' \
        2> "$work/messages" > "$work/from-wheel.$architecture.json" || fail "$(cat "$work/messages")"
    same_answers "$work/autoencoder.json" "$work/from-wheel.$architecture.json"
    inside sh -c 'cd /root/check/cells && tinynet predict autoencoder $(find cell_images -name "*.png" | sort | head -1)'
done
echo "+ done: $*"
