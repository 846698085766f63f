#!/bin/sh
# Brings the mail servers of `make test-mta` (Postfix, OpenSMTPD, Exim) and the libraries they need into one directory each, in
# which they run by chroot, and a verifier of DKIM (dkimpy, for python3) into another. Nothing is installed.
set -eu
target=$1
servers="postfix opensmtpd exim"
for server in $servers; do [ -e "$target/$server/ready" ] || missing=yes; done
[ -d "$target/dkim" ] || missing=yes
[ -n "${missing:-}" ] || exit 0
rm -rf "$target"
mkdir -p "$target/debs"
cd "$target/debs"
packages="postfix libsasl2-modules libsasl2-modules-db sasl2-bin opensmtpd exim4-base exim4-daemon-light"
closure() {
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
    --no-pre-depends $packages | sed -n 's/^\(lib[a-z0-9.+-]*\|zlib1g\)$/\1/p' | grep -vE '^lib(perl|python|systemd|cryptsetup|pam-|newt|slang)' | sort -u
}
if ! apt-get -qq download postfix 2>/dev/null; then apt-get -qq update || true; fi
# shellcheck disable=SC2046
apt-get -qq download $packages $(closure) busybox-static 2>/dev/null ||
  { echo "setup: apt has not all of the mail servers; those that are missing are not tested" >&2; }
for server in $servers; do
  tree=$target/$server
  mkdir -p "$tree/dev"
  for deb in lib*.deb zlib1g*.deb busybox-static*.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" "$tree"; done
done
dpkg -x postfix_*.deb "$target/postfix" && dpkg -x sasl2-bin_*.deb "$target/postfix" && touch "$target/postfix/ready"
dpkg -x opensmtpd_*.deb "$target/opensmtpd" && touch "$target/opensmtpd/ready"
dpkg -x exim4-base_*.deb "$target/exim" && dpkg -x exim4-daemon-light_*.deb "$target/exim" && touch "$target/exim/ready"
mkdir -p "$target/dkim"
apt-get -qq download python3-dkim python3-nacl python3-cffi-backend python3-dnspython libsodium23 2>/dev/null || true
for deb in python3-*.deb libsodium23_*.deb; do [ ! -e "$deb" ] || dpkg -x "$deb" "$target/dkim"; done
[ ! -d "$target/dkim/usr/lib/python3/dist-packages/dkim" ] || touch "$target/dkim/ready"
cd .. && rm -rf debs
