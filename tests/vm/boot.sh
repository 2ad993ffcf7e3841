# shellcheck shell=bash
# Sourced by the scripts that boot test VMs, from the top of the working tree.

# Sets `tests` to the integration suite and `hull` to the runtime, as cargo has built them.
find_suite() {
    tests=$(cargo test --no-run --test integration 2>&1 |
        sed -n 's/.*(\(target.*integration-[0-9a-f]*\)).*/\1/p')
    [ -x "$tests" ] || { echo "$0: the integration suite is not built" >&2; exit 1; }
    # shellcheck disable=SC2034 # for the caller
    hull=$(dirname "$(dirname "$tests")")/hull
}

# boot NAME LOG ARGUMENT…: tests/vm/run with these arguments; returns its status. LOG holds the
# output of the last try. Emulation makes a VM hang or end early (status 125) as often as hull does:
# such a VM is booted once more, and the output says so.
boot() {
    local name=$1 log=$2 try status
    shift 2
    for try in first second; do
        echo "-- test VM: $name ($try try)"
        tests/vm/run "$@" 2>&1 | tee "$log"
        status=${PIPESTATUS[0]}
        [ "$status" = 125 ] || break
    done
    return "$status"
}
