#!/bin/sh
# Brings Postfix's smtp-source and smtp-sink, the reference of `make bench`, into a directory. Nothing is installed.
set -eu
target=$1
[ -x "$target/usr/sbin/smtp-sink" ] && exit 0
mkdir -p "$target"
cd "$target"
if ! apt-get -qq download postfix 2>/dev/null; then
  apt-get -qq update || true
  apt-get -qq download postfix || { echo "setup: no Postfix from apt; the benches go without that reference" >&2; exit 0; }
fi
dpkg -x postfix_*.deb .
rm postfix_*.deb
