#!/usr/bin/env bash
# Members on hosts of their own: four network namespaces on one bridge, a name server, and what real networks do.
#
#   tests/hosts.sh [BINARY]
#
# BINARY is the tidings to test; without one, `cargo build` makes it. Needs root, Linux, ip (iproute2), nft (nftables)
# and dnsmasq. Takes about a minute, prints a line for each case, and ends with 0 if all hold and with 1 otherwise.
# Everything that it makes is in namespaces of its own, and goes with them at the end, whatever happens.
#
# Covered: a join over DNS (names of one and of several addresses, SRV records, IPv6), an advertised address behind a
# port mapping, a path with an MTU of 1280, hosts with IPv6 alone, an address that changes, and another cluster, with
# and without the same key, on the same network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly NET="tdg$$"
readonly PATIENCE_S=25
readonly HOSTS=4
WORK="$(mktemp -d)"
readonly WORK
failed=0
members=()

clean_up() {
    local pid ns
    for pid in "${members[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    for ns in $(ip netns list | awk -v net="$NET" 'index($1, net) == 1 { print $1 }'); do
        ip netns delete "$ns" || true
        rm -rf "/etc/netns/$ns"
    done
    rm -rf "$WORK"
}
trap clean_up EXIT
trap 'exit 1' INT TERM HUP

for tool in ip nft dnsmasq; do
    command -v "$tool" >/dev/null || { echo "$tool is not installed" >&2; exit 1; }
done
[ "$(id -u)" = 0 ] || { echo "only root can make network namespaces" >&2; exit 1; }

BINARY="${1:-}"
if [ -z "$BINARY" ]; then
    cargo build --quiet --bin tidings
    BINARY="${CARGO_TARGET_DIR:-target}/debug/tidings"
fi
[ -x "$BINARY" ] || { echo "$BINARY is no program" >&2; exit 1; }
BINARY="$(realpath "$BINARY")"

# --- the network -------------------------------------------------------------------------------------------------

in_host() { local host="$1"; shift; ip netns exec "$NET-$host" "$@"; }

make_network() {
    local host
    ip netns add "$NET-sw"
    in_host sw ip link add name bridge0 type bridge
    in_host sw ip link set bridge0 up
    in_host sw ip link set lo up
    in_host sw ip address add 10.77.0.254/24 dev bridge0
    in_host sw ip address add fd77::254/64 dev bridge0 nodad
    for host in $(seq "$HOSTS"); do make_host "$host"; done
    ip netns exec "$NET-sw" dnsmasq --no-daemon --no-resolv --no-hosts --conf-file=/dev/null --bind-interfaces --interface=bridge0 \
        --except-interface=lo --user=root --pid-file= \
        --host-record=one.test,10.77.0.1 --host-record=six.test,fd77::1 \
        --address=/many.test/10.77.0.99 --address=/many.test/10.77.0.1 \
        --srv-host=_tidings._udp.test,one.test,7900 >"$WORK/dnsmasq" 2>&1 &
    members+=($!)
}

make_host() {
    local host="$1" ns="$NET-$1"
    ip netns add "$ns"
    mkdir -p "/etc/netns/$ns"
    echo "nameserver 10.77.0.254" >"/etc/netns/$ns/resolv.conf"
    ip -n "$NET-sw" link add "port$host" type veth peer name eth0 netns "$ns"
    ip -n "$NET-sw" link set "port$host" master bridge0 up
    ip -n "$ns" link set lo up
    ip -n "$ns" link set eth0 up
    ip -n "$ns" address add "10.77.0.$host/24" dev eth0
    ip -n "$ns" address add "fd77::$host/64" dev eth0 nodad
}

# --- members -----------------------------------------------------------------------------------------------------

# start LABEL HOST OPTION ...: a member named LABEL on a host; its lines are in $WORK/LABEL.
start() {
    local label="$1" host="$2"
    shift 2
    mkfifo "$WORK/$label.in"
    # Not a function: the number must be that of the member itself.
    RUST_LOG=warn ip netns exec "$NET-$host" "$BINARY" node --name "$label" --output jsonl --control stdin \
        --join-policy background "$@" <"$WORK/$label.in" >"$WORK/$label" 2>"$WORK/$label.err" &
    members+=($!)
    pids[$label]=$!
    # Held open, or the first command would be the last one.
    exec {fd}>"$WORK/$label.in"
    inputs[$label]=$fd
}
declare -A pids inputs

# say LABEL COMMAND
say() { echo "$2" >&"${inputs[$1]}"; }

# The names of the members that LABEL sees as alive, in order.
seen_by() {
    local label="$1" before
    before="$(grep -c '"event":"view"' "$WORK/$label" || true)"
    say "$label" view
    for _ in $(seq 40); do
        [ "$(grep -c '"event":"view"' "$WORK/$label" || true)" -gt "$before" ] && break
        sleep 0.05
    done
    grep '"event":"view"' "$WORK/$label" | tail -n 1 | tr '{' '\n' |
        sed -n 's/^"member":"\([^"]*\)".*"state":"\(reachable\|suspect\)".*/\1/p' | sort | tr '\n' ' ' | sed 's/ $//'
}

# until_seen LABEL "NAMES": waits until LABEL sees exactly these.
until_seen() {
    local label="$1" names="$2" seen="" deadline=$((SECONDS + PATIENCE_S))
    while [ "$SECONDS" -lt "$deadline" ]; do
        seen="$(seen_by "$label")"
        [ "$seen" = "$names" ] && return 0
        sleep 0.2
    done
    echo "     $label sees [$seen], not [$names]" >&2
    return 1
}

# until_told LABEL PATTERN: waits until LABEL has printed a line that matches, in its output or its log.
until_told() {
    local deadline=$((SECONDS + PATIENCE_S))
    while [ "$SECONDS" -lt "$deadline" ]; do
        grep -qE "$2" "$WORK/$1" "$WORK/$1.err" && return 0
        sleep 0.2
    done
    echo "     $1 never told $2" >&2
    return 1
}

# A record of 20 KiB travels over a stream: so the path bears more than gossip.
until_large_record() {
    local from="$1" to="$2"
    say "$from" "register name=large,addr=127.0.0.1:80,id=large-$from,meta.text=$(head -c 20000 /dev/zero | tr '\0' x)"
    until_told "$to" "\"event\":\"service_up\".*large-$from"
}

end_members() {
    local label
    for label in "${!pids[@]}"; do
        kill -KILL "${pids[$label]}" 2>/dev/null || true
        wait "${pids[$label]}" 2>/dev/null || true
        eval "exec ${inputs[$label]}>&-"
        rm -f "$WORK/$label" "$WORK/$label.in" "$WORK/$label.err"
    done
    pids=() inputs=()
}

# check NAME FUNCTION
check() {
    local begun=$SECONDS
    # Not in a condition itself: there, `set -e` would not hold inside.
    if (set +e; "$2"); then
        echo "ok   $1 ($((SECONDS - begun)) s)"
    else
        echo "FAIL $1 ($((SECONDS - begun)) s)"
        tail -n 3 "$WORK"/*.err | cut -c 1-200 | sed 's/^/     /'
        failed=1
    fi
}

# --- cases: start_X makes the members, X says whether it is as it should be ----------------------------------------

readonly KEYED=(--cluster hosts --key-file "$WORK/key")

start_dns() {
    start a 1 "${KEYED[@]}" --bind 0.0.0.0:7900
    start b 2 "${KEYED[@]}" --bind 0.0.0.0:7900 --join dns:one.test:7900
    start c 3 "${KEYED[@]}" --bind 0.0.0.0:7900 --join srv:_tidings._udp.test
    start d 4 "${KEYED[@]}" --bind 0.0.0.0:7900 --join dns:many.test:7900
}
dns() {
    until_seen a "a b c d" && until_seen d "a b c d" && until_large_record d a
}

start_mapped() {
    # Host 4 has no way to it but the port 17900 of host 3.
    in_host 3 sysctl -qw net.ipv4.ip_forward=1
    in_host 3 ip link add inner type veth peer name eth1 netns "$NET-4"
    in_host 3 ip address add 192.168.9.1/24 dev inner
    in_host 3 ip link set inner up
    in_host 4 ip link set eth0 down
    in_host 4 ip address add 192.168.9.2/24 dev eth1
    in_host 4 ip link set eth1 up
    in_host 4 ip route add default via 192.168.9.1
    in_host 3 nft -f - <<'RULES'
table ip mapping {
    chain in { type nat hook prerouting priority -100; udp dport 17900 dnat to 192.168.9.2:7900; }
    chain out { type nat hook postrouting priority 100; ip saddr 192.168.9.2 oifname "eth0" masquerade; }
}
RULES
    start a 1 "${KEYED[@]}" --bind 0.0.0.0:7900
    start b 2 "${KEYED[@]}" --bind 0.0.0.0:7900 --join 10.77.0.1:7900
    start m 4 "${KEYED[@]}" --bind 0.0.0.0:7900 --advertise 10.77.0.3:17900 --join 10.77.0.1:7900
}
mapped() {
    until_seen a "a b m" && until_seen m "a b m" && until_seen b "a b m" || return 1
    until_told a '"event":"member_up".*"member":"m".*"addr":"10.77.0.3:17900"' || return 1
    until_large_record m b && until_large_record a m || return 1
    # Longer than it takes to find that somebody does not answer.
    sleep 12
    [ "$(seen_by a)" = "a b m" ] && [ "$(seen_by b)" = "a b m" ] && [ "$(seen_by m)" = "a b m" ] &&
        ! grep -qE '"event":"member_(down|unreachable)"' "$WORK/a" "$WORK/b" "$WORK/m"
}
stop_mapped() {
    in_host 3 nft delete table ip mapping
    in_host 3 ip link delete inner
    in_host 4 ip link set eth0 up
    # It went with the link.
    in_host 4 ip address replace fd77::4/64 dev eth0 nodad
}

start_narrow() {
    local host
    for host in $(seq "$HOSTS"); do
        in_host "$host" ip link set eth0 mtu 1280
        # What does not fit is lost without a word, as behind a tunnel that answers nothing.
        ip -n "$NET-sw" link set "port$host" mtu 1280
    done
    start a 1 "${KEYED[@]}" --bind 0.0.0.0:7900
    start b 2 "${KEYED[@]}" --bind 0.0.0.0:7900 --join 10.77.0.1:7900
    start c 3 "${KEYED[@]}" --bind '[::]:7900' --advertise fd77::3 --join '[fd77::4]:7900'
    start d 4 "${KEYED[@]}" --bind '[::]:7900' --advertise fd77::4
}
narrow() {
    until_seen a "a b" && until_large_record a b && until_large_record b a || return 1
    until_seen c "c d" && until_large_record c d && until_large_record d c
}
stop_narrow() {
    local host
    for host in $(seq "$HOSTS"); do
        in_host "$host" ip link set eth0 mtu 1500
        ip -n "$NET-sw" link set "port$host" mtu 1500
    done
}

start_six() {
    local host
    for host in $(seq "$HOSTS"); do
        in_host "$host" ip -4 address flush dev eth0
        echo "nameserver fd77::254" >"/etc/netns/$NET-$host/resolv.conf"
    done
    start a 1 "${KEYED[@]}" --bind '[::]:7900' --advertise cidr:fd77::/64
    start b 2 "${KEYED[@]}" --bind '[fd77::2]:7900' --join dns:six.test:7900
    start c 3 "${KEYED[@]}" --bind '[::]:7900' --advertise iface:eth0 --join '[fd77::1]:7900'
}
six() {
    until_seen a "a b c" && until_seen b "a b c" && until_seen c "a b c" && until_large_record c a
}
stop_six() {
    local host
    for host in $(seq "$HOSTS"); do
        in_host "$host" ip address add "10.77.0.$host/24" dev eth0
        echo "nameserver 10.77.0.254" >"/etc/netns/$NET-$host/resolv.conf"
    done
}

start_moved() {
    start a 1 "${KEYED[@]}" --bind 0.0.0.0:7900
    start b 2 "${KEYED[@]}" --bind 0.0.0.0:7900 --join 10.77.0.1:7900 --service name=web,addr=127.0.0.1:80
    start c 3 "${KEYED[@]}" --bind 0.0.0.0:7900 --join 10.77.0.1:7900
}
moved() {
    until_seen a "a b c" && until_seen b "a b c" || return 1
    in_host 2 ip address add 10.77.0.22/24 dev eth0
    in_host 2 ip address delete 10.77.0.2/24 dev eth0
    # A secondary address may go with the first one.
    in_host 2 ip address replace 10.77.0.22/24 dev eth0
    until_told b "our address is 10.77.0.22:7900 now" || return 1
    until_view a '10\.77\.0\.22:7900' && until_view c '10\.77\.0\.22:7900' || return 1
    until_seen a "a b c" && until_large_record b a && until_large_record c b || return 1
    sleep 12
    [ "$(seen_by a)" = "a b c" ] && [ "$(seen_by c)" = "a b c" ] &&
        ! grep -qE '"event":"(service_down|member_unreachable)"' "$WORK/a" "$WORK/c"
}
# until_view LABEL PATTERN: waits until LABEL's view matches.
until_view() {
    local deadline=$((SECONDS + PATIENCE_S))
    while [ "$SECONDS" -lt "$deadline" ]; do
        seen_by "$1" >/dev/null
        grep '"event":"view"' "$WORK/$1" | tail -n 1 | grep -qE "$2" && return 0
        sleep 0.2
    done
    echo "     the view of $1 never matches $2" >&2
    return 1
}
stop_moved() {
    in_host 2 ip -4 address flush dev eth0
    in_host 2 ip address add 10.77.0.2/24 dev eth0
}

start_strangers() {
    start a 1 "${KEYED[@]}" --bind 0.0.0.0:7900
    start b 2 "${KEYED[@]}" --bind 0.0.0.0:7900 --join 10.77.0.1:7900
    # Another cluster with the same key, one of the same name with another key, and one of the same name without a key.
    start c 3 --cluster other --key-file "$WORK/key" --bind 0.0.0.0:7900 --join 10.77.0.1:7900
    start d 4 --cluster hosts --key-file "$WORK/key2" --bind 0.0.0.0:7900 --join 10.77.0.1:7900
    start e 4 --cluster hosts --insecure --bind 0.0.0.0:7901 --advertise 10.77.0.4 --join 10.77.0.1:7900
}
strangers() {
    until_seen a "a b" && until_told a 'another cluster|other cluster' && until_told a 'cluster key' || return 1
    until_told c 'cluster' && until_told d 'cluster key' && until_told e 'cluster key|insecure' || return 1
    until_seen b "a b" && until_seen c "c" && until_seen d "d" && until_seen e "e"
}

make_network
"$BINARY" keygen --output "$WORK/key"
"$BINARY" keygen --output "$WORK/key2"
run() {
    "start_$2"
    check "$1" "$2"
    end_members
    if declare -F "stop_$2" >/dev/null; then "stop_$2"; fi
}
run "join over DNS: one address, several of which one is there, SRV" dns
run "advertise behind a port mapping" mapped
run "a path with an MTU of 1280, IPv4 and IPv6" narrow
run "IPv6 alone" six
run "an address that changes while the member runs" moved
run "other clusters and other keys on the same network stay out, and all say why" strangers
exit "$failed"
