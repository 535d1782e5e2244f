#!/usr/bin/env bash
# The core's tests on AArch64: cross-compiled against Debian's CPython for that machine, run by qemu's user emulation.
#
#   bash tests/aarch64.sh                       all of them, in a temporary folder
#   bash tests/aarch64.sh FOLDER [NAME...]      keep what was fetched in FOLDER; only test_NAME.py
#
# Needs Debian with `apt-get install qemu-user-static gcc-aarch64-linux-gnu`, and PyPI; of the system nothing else changes.
# The emulator orders memory as the machine below it does, so what this finds are other assumptions: instructions, alignment,
# signs, numbers of system calls.  tests/litmus is about the order.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD

qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
for tool in "${qemu:-qemu-aarch64-static}" aarch64-linux-gnu-gcc apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || { echo "skipped: no $tool"; exit 0; }
done

if [[ $# -gt 0 ]]; then
    mkdir -p "$1" && folder=$(cd "$1" && pwd) && shift
else
    folder=$(mktemp -d "${TMPDIR:-/tmp}/zswap-aarch64.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
fi
names=("$@")
[[ $# -gt 0 ]] || names=(slab index arena zpool_contract zsmalloc zbud z3fold samefilled checksum compressors dictionary engine threads stress pools writeback
    shrinker swapfile backing_contract encryption latency faults damage model lref)
root=$folder/root

# Debian's packages, resolved and fetched by an apt with a state of its own, unpacked and not installed.
fetch_root() {
    local apt=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Install-Recommends=0 -o Acquire::Languages=none
        -o Dir::State="$folder/apt" -o Dir::State::status="$folder/apt/status" -o Dir::Cache="$folder/apt") deb
    mkdir -p "$folder"/apt/{lists,archives}/partial "$root"/usr/{bin,lib,sbin}
    : >"$folder/apt/status"
    ln -sfn usr/bin "$root/bin" && ln -sfn usr/lib "$root/lib" && ln -sfn usr/sbin "$root/sbin"
    apt-get "${apt[@]}" update
    apt-get "${apt[@]}" -y --download-only install python3 libpython3-dev libstdc++6 liblzo2-2 libdeflate0 libxxhash0 libzstd1
    for deb in "$folder"/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar x --keep-directory-symlink -C "$root"
    done
}

# What the package and its tests import, as wheels for that machine.
fetch_wheels() {
    local platforms=() minor
    for minor in {17..36}; do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done
    "$folder/tools/bin/pip" install --target "$root/usr/lib/python3/dist-packages" --only-binary=:all: --implementation cp \
        --python-version "$version" --platform manylinux2014_aarch64 "${platforms[@]}" \
        numpy lz4 zstd click rich pytest hypothesis prometheus-client
}

export PIP_QUIET=1 PIP_PROGRESS_BAR=off PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
[[ -e $root/complete ]] || fetch_root
version=$(cd "$root/usr/bin" && ls python3.* | sed -n 's/^python\(3\.[0-9]*\)$/\1/p')
if [[ ! -e $root/complete ]]; then
    "${PYTHON:-python3}" -m venv "$folder/tools"
    "$folder/tools/bin/pip" install 'setuptools>=77' 'Cython>=3.1,<3.4'
    fetch_wheels
    printf '#!/bin/sh\nexec "%s" -L "%s" "%s/usr/bin/python%s" "$@"\n' "$qemu" "$root" "$root" "$version" >"$folder/python"
    chmod +x "$folder/python"
    # Tests that start a Python of their own start it by the emulator, too.
    echo "import sys; sys.executable = '$folder/python'" >"$root/usr/lib/python3/dist-packages/emulated.pth"
    touch "$root/complete"
fi

tree=$folder/tree
rm -rf "$tree" && mkdir "$tree"
git ls-files -coz --exclude-standard | while IFS= read -r -d '' file; do
    [[ ! -e $file ]] || printf '%s\0' "$file"
done | tar c --null -T - | tar x -C "$tree"
cd "$tree"
cc="aarch64-linux-gnu-gcc --sysroot=$root"
[[ -z $(command -v ccache) ]] || cc="ccache $cc"
env -u CFLAGS -u LDFLAGS _PYTHON_HOST_PLATFORM=linux-aarch64 SETUPTOOLS_EXT_SUFFIX=".cpython-${version/./}-aarch64-linux-gnu.so" \
    CC="$cc" LDSHARED="$cc -shared" ZSWAP_WERROR=1 \
    "$folder/tools/bin/python" setup.py -q build_ext --inplace -I "$root/usr/include/python$version" >"$folder/build.txt" 2>&1 ||
    { tail -20 "$folder/build.txt"; exit 1; }

# What the emulator cannot.  Limits on address space, and looks at how much there is, meet its own; of madvise it passes on
# neither what keeps memory out of dumps nor what empties it in a forked child (for which test_wipe.py is left out, too).
cannot='no_memory_is_an_error or no_memory_leaves_everything or cannot_be_made_leaves_nothing'
cannot+=' or kept_from_dumps or forked_child_has_no_key'
passed=0 failed=0 broken=()
for name in "${names[@]}"; do
    # A process each, as a crash ends it.
    ZSWAP_TEST_TIMEOUT=1200 timeout 3600 "$folder/python" -m pytest -q -p no:cacheprovider -r fE -k "not ($cannot)" \
        $(find tests -name "test_$name.py") >"$folder/$name.txt" 2>&1 || { broken+=("$name"); tail -40 "$folder/$name.txt"; }
    last=$(tail -1 "$folder/$name.txt")
    echo "$name: $last"
    [[ ! $last =~ ([0-9]+)\ passed ]] || passed=$((passed + BASH_REMATCH[1]))
    [[ ! $last =~ ([0-9]+)\ failed ]] || failed=$((failed + BASH_REMATCH[1]))
done
echo "AArch64, CPython $version: $passed passed, $failed failed${broken[*]:+; look at ${broken[*]}}"
[[ ${#broken[@]} -eq 0 ]]
