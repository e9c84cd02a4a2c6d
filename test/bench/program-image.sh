#!/usr/bin/env bash
# Makes the image of a real program as an OCI layout in DIR: Debian as the base layer, and python3 with what it needs as a second
# one, as a build of `FROM debian; RUN apt-get install python3` leaves it. Kept for later runs. Needs root.
#
#   test/bench/program-image.sh DIR
#
# The tag in the layout is "python". No fixed date: the times of .pyc files must go on matching those of their sources.
set -euo pipefail
[ $# = 1 ] || { echo "usage: program-image.sh DIR" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
if [ -e complete ]; then exit 0; fi

work=$(mktemp -d ./image.XXXXXX)
trap 'rm -rf "$work"' EXIT
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 2>/dev/null | awk '$2 == "bookworm" { print $1; exit }') || true
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(date +%s)
for packages in "" python3; do
  mmdebstrap --variant=minbase ${packages:+--include="$packages"} --format=tar bookworm "$work/root$packages.tar" \
    "${mirror:-http://deb.debian.org/debian}"
done

# umoci compares the tree with what it unpacked, as image builders do, and writes what differs as a layer.
layout=$work/layout
umoci init --layout "$layout"
umoci new --image "$layout:python"
umoci unpack --image "$layout:python" "$work/empty"
tar -xf "$work/root.tar" -C "$work/empty/rootfs" --numeric-owner --xattrs --xattrs-include='*'
umoci repack --image "$layout:python" "$work/empty"
umoci unpack --image "$layout:python" "$work/base"
tar -xf "$work/rootpython3.tar" -C "$work/base/rootfs" --numeric-owner --xattrs --xattrs-include='*'
umoci repack --image "$layout:python" "$work/base"
umoci gc --layout "$layout"

rm -rf layout
mv "$layout" layout
touch complete
