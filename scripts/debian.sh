# shellcheck shell=bash
# Sourced by what fetches packages of Debian to use them beside the host's own: the host's packages
# and apt's configuration stay as they are.

debian_indexes() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian'
}

# Prints the URI of Debian's archive as the host's apt knows it, whose lists are fetched where there
# are none.
debian_archive() {
    [ -n "$(debian_indexes)" ] || apt-get -q update >/dev/null 2>&1 || true
    debian_indexes | sort -u | head -n 1 | grep .
}

# separate_apt DIRECTORY TYPE RELEASE: sets the array `apt` to an apt-get that knows one source, of
# the type deb or deb-src, and has lists, a status and a cache of its own in DIRECTORY. To it no
# package is installed. Fails where the host's apt knows no Debian archive.
separate_apt() {
    local uri
    uri=$(debian_archive) || return
    mkdir -p "$1"/{lists,archives}/partial
    : >"$1/status"
    echo "$2 [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $3 main" \
        >"$1/sources.list"
    # shellcheck disable=SC2034 # for the caller
    apt=(
        apt-get -q
        -o Dir::Etc::sourcelist="$1/sources.list"
        -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferences=/dev/null
        -o Dir::Etc::preferencesparts=/dev/null
        -o Dir::State::lists="$1/lists"
        -o Dir::State::status="$1/status"
        -o Dir::Cache="$1"
        -o APT::Sandbox::User=root
        -o Acquire::Languages=none
        -o Debug::NoLocking=1
    )
}

# unpack_packages DIRECTORY ROOT: unpacks every .deb of DIRECTORY into ROOT.
unpack_packages() {
    local package
    mkdir -p "$2"
    for package in "$1"/*.deb; do
        dpkg-deb -x "$package" "$2" || return
    done
}

# use_libraries ROOT PROGRAM: points PROGRAM at the C library and the other libraries in ROOT.
use_libraries() {
    local loader libraries
    loader=$(find "$1" -name 'ld-linux-*.so.*' | head -n 1)
    [ -n "$loader" ] || { echo "no C library in $1"; return 1; }
    libraries=$(find "$1" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)
    patchelf --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$2"
}
