#!/bin/sh
# Rebuilds the committed tiny init from init.c for one architecture, or for
# both: build.sh [amd64|arm64 [OUTPUT]]. Without OUTPUT the result goes beside the
# Go files, with the hash of the source, which a test compares.
set -eu
cd "$(dirname "$0")"

compile() {
	case $1 in
	amd64) cc=${CC_AMD64:-gcc} flags="-fcf-protection=none" ;;
	arm64) cc=${CC_ARM64:-aarch64-linux-gnu-gcc} flags="-mno-outline-atomics" ;;
	*) echo "build.sh: $1: not amd64 or arm64" >&2; exit 2 ;;
	esac
	# 64 KiB pages are the largest that arm64 has; no segment may need alignment to less.
	"$cc" -std=gnu11 -Os -Wall -Wextra -Werror -ffreestanding -fno-builtin -fno-stack-protector \
		-fno-asynchronous-unwind-tables -fno-unwind-tables -fno-pie $flags \
		-nostdlib -static -no-pie -s -Wl,--build-id=sha1 -Wl,-z,max-page-size=65536 \
		-Wl,-z,noexecstack -Wl,-z,noseparate-code -o "$2" init.c
}

if [ $# -eq 2 ]; then
	compile "$1" "$2"
	exit
fi
for arch in ${1:-amd64 arm64}; do
	compile "$arch" "../init_$arch.elf"
done
sha256sum <init.c | cut -d' ' -f1 >../init.c.sha256
