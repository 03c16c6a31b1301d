#!/usr/bin/env bash
# Ten thousand keys on one storage node; nine more join, and everything spreads; nine leave, and everything is on one
# again. Unattended: ends with code 0 if every key kept its value throughout. Needs curl.
#
#   tests/one_ten_one.sh            KEYS=10000 and PORT=23500 (and the next forty, where the system takes
#                            none for outgoing connections) unless set
set -euo pipefail
cd "$(dirname "$0")/.."

keys=${KEYS:-10000}
port=${PORT:-23500}
cargo build --quiet --release --locked -p dhtctl
dhtctl="${CARGO_TARGET_DIR:-target}/release/dhtctl"
work=$(mktemp -d)
export DHT_LEADERS=127.0.0.1:$port
declare -A pids

finish() {
    status=$?
    kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    if [ "$status" -eq 0 ]; then rm -rf "$work"; else echo "failed; the logs are in $work" >&2; fi
}
trap finish EXIT

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

http_of() { echo "127.0.0.1:$((port + 20 + $1))"; }

start_node() {
    "$dhtctl" storaged --data-dir "$work/s$1" --listen "127.0.0.1:$((port + $1))" --http "$(http_of "$1")" \
        2>"$work/s$1.log" &
    pids[$1]=$!
}

# Waits until every partition is where it should be and nothing is left over.
complete() {
    for _ in $(seq 1200); do
        if "$dhtctl" rebalance status --output json 2>/dev/null | grep -q '"complete": true'; then return; fi
        sleep 0.25
    done
    "$dhtctl" rebalance status
    return 1
}

# Asks one node's gateway for every key; others answer through it.
check() {
    for number in $(seq "$keys"); do
        printf 'url = "http://%s/kvs/keys/key-%s"\n' "$(http_of 1)" "$number"
    done >"$work/gets"
    curl --silent --show-error --write-out '\n' --config "$work/gets" >"$work/answers"
    grep --only-matching '"value":"[^"]*"' "$work/answers" >"$work/got" || true
    cmp --silent "$work/expected" "$work/got" || {
        grep --invert-match '"value":' "$work/answers" | head >&2; say "keys are missing or wrong ($1)"; return 1; }
    say "all $keys keys have their value ($1)"
}

SECONDS=0
for number in $(seq "$keys"); do echo "\"value\":\"value $number\""; done >"$work/expected"
"$dhtctl" viewleader --data-dir "$work/v" --listen "$DHT_LEADERS" --http "127.0.0.1:$((port + 15))" --expect-nodes 1 \
    2>"$work/v.log" &
pids[0]=$!
start_node 1
until "$dhtctl" status >/dev/null 2>&1; do sleep 0.1; done
say "one storage node serves"

{
    for number in $(seq "$keys"); do
        [ "$number" -eq 1 ] || echo next
        printf 'url = "http://%s/kvs/keys/key-%s"\nrequest = PUT\ndata = "{\\"value\\":\\"value %s\\"}"\n' \
            "$(http_of 1)" "$number" "$number"
        printf 'header = "content-type: application/json"\noutput = /dev/null\nsilent\nshow-error\nfail\n'
    done
} >"$work/puts"
curl --config "$work/puts"
check "on one node"

for node in $(seq 2 10); do start_node "$node"; done
until [ "$("$dhtctl" nodes --output raw 2>/dev/null | wc -l)" -eq 10 ]; do
    for node in $(seq 2 10); do
        kill -0 "${pids[$node]}" 2>/dev/null || { cat "$work/s$node.log" >&2; exit 1; }
    done
    sleep 0.1
done
check "while ten nodes share them out"
complete
say "ten storage nodes share them"
"$dhtctl" nodes
check "on ten nodes"

"$dhtctl" cluster set replication 1
first="127.0.0.1:$((port + 1))"
for node in $("$dhtctl" nodes --output raw | grep -v "^$first$"); do "$dhtctl" node drain "$node"; done
complete
say "nine are empty"
for node in $(seq 2 10); do
    kill "${pids[$node]}"
    wait "${pids[$node]}" || true
    unset "pids[$node]"
done
check "on one node again"
say "done"
