#!/usr/bin/env bash
# Bring what the tests use besides Python: Debian packages where this is root on Debian, and npm packages.
# What can't be had is named; its tests then skip themselves.
cd "$(dirname "$0")/.." || exit 0

missing=()
for pair in curl:curl strace:strace node:nodejs npm:npm gcc:gcc chromium:chromium dnsmasq:dnsmasq-base ip:iproute2 \
    redis-server:redis-server pkg-config:pkg-config nginx:nginx-light haproxy:haproxy caddy:caddy faketime:faketime \
    php:php-cli ruby:ruby; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
# gcc without the C library's headers compiles nothing, and they are only a recommendation of Debian's.
[ -e /etc/debian_version ] && [ ! -e /usr/include/stdio.h ] && missing+=(libc6-dev)
# For the compiled wheel, where this is Debian's Python.
python=$(command -v "${PYTHON:-python3}")
if [ -e /etc/debian_version ] && [[ $(realpath "$python") == /usr/bin/* ]]; then
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$include/Python.h" ] || missing+=(python3-dev)
fi
# For the examples of ZeroMQ in C, C++, Go, Rust and Perl. Compilers other than gcc are not brought.
if [ -e /etc/debian_version ]; then
    [ -e /usr/include/zmq.h ] || missing+=(libzmq3-dev)
    [ -e /usr/include/zmq_addon.hpp ] || missing+=(cppzmq-dev)
    perl -MZMQ::FFI -e 1 2>/dev/null || missing+=(libzmq-ffi-perl)
fi
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null 2>&1 ||
            echo "could not install: ${missing[*]}; the tests that need them are skipped"
    else
        echo "not installed: ${missing[*]}; the tests that need them are skipped"
    fi
fi
packages=()
for package in ws@8 zeromq@6 vite@5 standardwebhooks@1 vitest@4 \
    @rails/actioncable@8.1 @anycable/core@1.1 @hotwired/turbo-rails@8 \
    @durable-streams/server-conformance-tests@0.3.6 @durable-streams/client@0.2.7 \
    @durable-streams/aisdk-transport@0.0.7 ai@6 \
    centrifuge@5.7.4 eventsource@2 pusher-js@8.6.0 pusher@5.3.4 laravel-echo@2.5.0 tweetnacl@1; do
    [ -d "build/node/node_modules/${package%@*}" ] || packages+=("$package")
done
if [ ${#packages[@]} -gt 0 ] && command -v npm >/dev/null; then
    mkdir -p build/node
    npm install --silent --no-audit --no-fund --prefix build/node "${packages[@]}" >/dev/null 2>&1 ||
        echo "could not install all of the npm packages ${packages[*]}; the tests that need them are skipped"
fi
# Suites of other servers' client libraries, which their packages have, but do not install.
mkdir -p build/suites
python_suite=centrifuge_python-0.7.0
if [ ! -d "build/suites/$python_suite" ]; then
    { "$python" -m pip download --quiet --no-deps --no-binary :all: --dest build/suites centrifuge-python==0.7.0 &&
        tar -xzf "build/suites/$python_suite.tar.gz" -C build/suites; } >/dev/null 2>&1 ||
        echo "could not get the suite of centrifuge-python; its test is skipped"
fi
if [ ! -d build/suites/centrifuge-go ] && command -v go >/dev/null; then
    (cd build/suites && go mod download github.com/centrifugal/centrifuge-go@v0.12.1 &&
        cp -r "$(go env GOMODCACHE)/github.com/centrifugal/centrifuge-go@v0.12.1" centrifuge-go &&
        chmod -R u+w centrifuge-go) >/dev/null 2>&1 ||
        { rm -rf build/suites/centrifuge-go && echo "could not get the suite of centrifuge-go; its test is skipped"; }
fi
exit 0
