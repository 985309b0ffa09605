#!/usr/bin/env bash
# Build the images without Docker and without a registry, as root, with buildah (and mmdebstrap for a base):
#
#   docker/build-without-daemon.sh gateway worker-cpu
#
# They are tagged localhost/specd-TARGET in the storage at STORE, which needs 6 GB and is yours to remove afterwards.
#
#   STORE         where images are kept (default /tmp/specd-images)
#   PYTHON_IMAGE  the base; unless it is given, a Debian with its own Python is made for it
#   TORCH_INDEX   where torch for the CPU comes from
#   MOUNTS        "FROM:TO ..." that the build may read, such as a pip.conf and certificates of your network; none of
#                 it gets into an image
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

store=${STORE:-/tmp/specd-images}
mkdir -p "$store"
# vfs copies where others lay over, and so needs nothing of the kernel.
buildah=(buildah --storage-driver vfs --root "$store/root" --runroot "$store/run")

base=${PYTHON_IMAGE:-}
if [ -z "$base" ]; then
    base=localhost/specd-base
    if ! "${buildah[@]}" inspect --type image "$base" >/dev/null 2>&1; then
        packages=python3,python3-venv,python-is-python3,ca-certificates
        mmdebstrap --variant=minbase --include="$packages" bookworm "$store/base.tar"
        container=$("${buildah[@]}" from scratch)
        "${buildah[@]}" add --quiet "$container" "$store/base.tar" /
        "${buildah[@]}" commit --quiet "$container" "$base"
        "${buildah[@]}" rm "$container" >/dev/null
        rm "$store/base.tar"
    fi
fi

options=(--isolation chroot --format docker --network host --build-arg "PYTHON_IMAGE=$base")
if [ -n "${TORCH_INDEX:-}" ]; then
    options+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
fi
for mount in ${MOUNTS:-}; do
    options+=(--volume "$mount:ro")
done

for target in "$@"; do
    "${buildah[@]}" bud "${options[@]}" --file docker/Dockerfile --ignorefile .dockerignore \
        --target "$target" --tag "localhost/specd-$target" .
done
"${buildah[@]}" images
