#!/bin/bash
# DNS beside the programs that use it: dig and kdig, the forwarders unbound, dnsmasq and bind9, the proxies HAProxy, Caddy
# and nginx. Starts three agents on this machine, and shows each question with its answer.
#
# Usage: tests/doors/dns.sh [all|ask|forward|haproxy|caddy|nginx|speed] ...; without, all but speed. TIDINGS is the command under test,
# target/debug/tidings unless given; for speed give it a release. What is missing is installed by apt as root; if it
# cannot be, this says so and is skipped, or fails with TIDINGS_REQUIRE_PEERS=1.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tidings=${TIDINGS:-$here/../../target/debug/tidings}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
most="ask forward haproxy caddy nginx"
parts=${*:-$most}
[ "$parts" != all ] || parts="$most speed"

work=$(mktemp -d)
chmod 755 "$work"
pids=()
failures=0
first=${TIDINGS_TEST_PORT:-18600}
dns=$first
http=$((first + 10))

cleanup() {
    local pid
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Runs something beside us, and remembers it.
beside() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null &
    pids+=($!)
    # It is killed at the end; nobody wants to read that it was.
    disown
}

. "$here/../need.sh"

ok() { echo "  ok: $1"; }
wrong() {
    echo "  WRONG: $1" >&2
    failures=$((failures + 1))
}

# within SECONDS COMMAND ...: until it succeeds.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.05
    done
}

# show PATTERN COMMAND ...: prints what it prints, which must match.
show() {
    local pattern=$1 said
    shift
    echo "\$ $*"
    said=$("$@" 2>&1) || true
    sed 's/^/  | /' <<<"$said"
    if grep -Eq -- "$pattern" <<<"$said"; then ok "has $pattern"; else wrong "has no $pattern"; fi
}

agent() {
    local n=$1
    shift
    beside "$work/node-$n.log" "$tidings" node --name "node-$n" --cluster doors --bind "127.0.0.1:$((first + 20 + n))" \
        --join "127.0.0.1:$((first + 20))" --http "127.0.0.1:$((http + n))" --dns "127.0.0.1:$((dns + n))" \
        --join-policy background --output jsonl --log-level warn "$@"
}

members() {
    [ "$(curl -sf "127.0.0.1:$((http + $1))/v2/members?state=reachable" | grep -o '"state": *"reachable"' | wc -l)" = "$2" ]
}

offer() {
    curl -sSf -o /dev/null -X POST "127.0.0.1:$((http + $1))/v2/offers" -d "$2"
}

stat() {
    curl -sf "127.0.0.1:$http/v2/stats" | grep -o "\"$1\": *[0-9]*" | grep -o '[0-9]*$'
}

# answers PORT NAME TYPE COUNT: whether there are so many records.
answers() {
    local said
    said=$(dig +short +tries=1 +time=1 -p "$1" @127.0.0.1 "$2" "${3:-A}") || return 1
    # dig tells of errors here too, as comments.
    [ "$(grep -vc '^;\|^$' <<<"$said")" -eq "$4" ]
}

start_cluster() {
    agent 0 --dns-txt --dns-ttl 'slow=30s'
    agent 1
    pid_1=${pids[-1]}
    agent 2
    for n in 0 1 2; do within 30 members "$n" 3 || { cat "$work/node-$n.log" >&2; lack "the cluster does not come about"; }; done
}

need curl curl dig bind9-dnsutils
start_cluster

part_ask() {
    echo "== questions, by dig and kdig"
    need kdig knot-dnsutils
    offer 0 '{"service": "web", "id": "web-0", "address": {"host": "127.0.0.1", "port": 8080}, "tags": ["v1"], "weight": 10,
        "version": "1.2.0", "meta": {"rack": "b7"}}'
    offer 1 '{"service": "web", "id": "web-1", "address": {"host": "10.9.9.9", "port": 8081}, "tags": ["v2"]}'
    offer 2 '{"service": "web", "id": "web-2", "address": {"host": "2001:db8::2", "port": 8082}, "namespace": "prod"}'
    # A check that nobody has told anything is critical.
    curl -sSf -o /dev/null -X PUT "127.0.0.1:$((http + 2))/v1/agent/service/register" \
        -d '{"Name": "broken", "Address": "10.9.9.9", "Port": 1, "Check": {"TTL": "10m"}}'
    local n
    for n in $(seq 1 60); do
        offer 1 "{\"service\": \"many\", \"id\": \"many-$n\", \"address\": {\"host\": \"10.8.0.$n\", \"port\": 80}}"
    done
    within 10 answers "$dns" many.service.tidings A 60 || wrong "60 instances are known everywhere"
    local dig=(dig +noall +comments +answer +authority +additional +tries=1 "@127.0.0.1" -p "$dns")
    show '127\.0\.0\.1' "${dig[@]}" web.service.tidings A
    show 'AAAA.2001:db8::2' "${dig[@]}" web.service.prod.ns.tidings AAAA
    show 'SRV.1 2560 8080 ' "${dig[@]}" _web._tcp.service.tidings SRV
    show 'SRV.1 256 8081 0a090909\.addr\.dc1\.tidings' "${dig[@]}" v2.web.service.tidings SRV
    show '"rack=b7"' "${dig[@]}" v1.web.service.tidings TXT
    show 'A.127\.0\.0\.1' "${dig[@]}" node-1.node.tidings A
    show 'PTR.web\.service\.tidings' "${dig[@]}" -x 10.9.9.9
    show 'SOA.ns\.tidings' "${dig[@]}" tidings SOA
    show 'NS.ns\.tidings' "${dig[@]}" tidings NS
    show 'SRV.1 ' "${dig[@]}" web.service.consul SRV
    show 'ANSWER: 0, AUTHORITY: 1' "${dig[@]}" broken.service.tidings A
    show 'status: NXDOMAIN' "${dig[@]}" wbe.service.tidings A
    show 'status: REFUSED' "${dig[@]}" example.com A
    show 'HINFO.*RFC8482' "${dig[@]}" web.service.tidings ANY +notcp
    show 'flags: [a-z ]*tc' "${dig[@]}" +ignore +bufsize=1232 many.service.tidings SRV
    show 'ANSWER: 60,' "${dig[@]}" +bufsize=1232 many.service.tidings SRV
    show 'ANSWER: 60;' kdig "@127.0.0.1" -p "$dns" +tcp +keepopen many.service.tidings SRV wEb.SeRvIcE.tidings A
    show 'TC' kdig "@127.0.0.1" -p "$dns" +ignore +noedns many.service.tidings SRV
    show 'wEb\.SeRvIcE\.tidings' "${dig[@]}" wEb.SeRvIcE.tidings A
    show 'BADVERS' "${dig[@]}" +edns=1 +noednsnegotiation web.service.tidings A
    show 'NOTIMP' "${dig[@]}" +opcode=notify web.service.tidings SOA
    echo "  $(stat dns_queries_udp) questions over UDP, $(stat dns_queries_tcp) over TCP, $(stat dns_truncated) cut"
}

part_forward() {
    echo "== forwarders"
    need unbound unbound dnsmasq dnsmasq-base named bind9
    offer 0 '{"service": "fwd", "id": "f0", "address": {"host": "127.0.0.1", "port": 90}}'
    offer 1 '{"service": "fwd", "id": "f1", "address": {"host": "10.7.7.1", "port": 90}}'
    within 10 answers "$dns" fwd.service.tidings A 2 || wrong "both are known"
    local unbound=$((first + 30)) dnsmasq=$((first + 31)) named=$((first + 32))
    cat >"$work/unbound.conf" <<CONF
server:
    interface: 127.0.0.1
    port: $unbound
    username: ""
    chroot: ""
    directory: "$work"
    pidfile: "$work/unbound.pid"
    use-syslog: no
    do-not-query-localhost: no
    use-caps-for-id: yes
    qname-minimisation-strict: yes
    domain-insecure: "tidings"
    local-zone: "tidings." nodefault
stub-zone:
    name: "tidings"
    stub-addr: 127.0.0.1@$dns
CONF
    beside "$work/unbound.log" unbound -d -p -c "$work/unbound.conf"
    beside "$work/dnsmasq.log" dnsmasq -k --no-resolv --no-hosts --conf-file=/dev/null --user=root --pid-file="$work/dnsmasq.pid" \
        --listen-address=127.0.0.1 --bind-interfaces --port="$dnsmasq" --no-negcache --server="/tidings/127.0.0.1#$dns"
    cat >"$work/named.conf" <<CONF
options {
    directory "$work";
    pid-file "$work/named.pid";
    session-keyfile "$work/session.key";
    listen-on port $named { 127.0.0.1; };
    listen-on-v6 { none; };
    dnssec-validation no;
    recursion yes;
};
controls { };
zone "tidings" { type forward; forward only; forwarders { 127.0.0.1 port $dns; }; };
CONF
    beside "$work/named.log" named -g -c "$work/named.conf"
    local name port
    for name in unbound dnsmasq named; do
        port=${!name}
        within 15 answers "$port" fwd.service.tidings A 2 || { wrong "$name answers"; tail -5 "$work/$name.log" >&2; continue; }
        show 'SRV.1 256 90 ' dig +noall +answer +tries=1 "@127.0.0.1" -p "$port" _fwd._tcp.service.tidings SRV
        show '10\.7\.7\.1' dig +short +tries=1 "@127.0.0.1" -p "$port" 0a070701.addr.dc1.tidings A
        show 'NXDOMAIN' dig +noall +comments +tries=1 "@127.0.0.1" -p "$port" wbe.service.tidings A
        # What was not there a moment ago is there now: nobody has kept that.
        answers "$port" "late-$name.service.tidings" A 0 || wrong "$name: nothing is there yet"
        offer 0 "{\"service\": \"late-$name\", \"address\": {\"host\": \"127.0.0.1\", \"port\": 91}}"
        if within 3 answers "$port" "late-$name.service.tidings" A 1; then ok "$name: it is there"; else wrong "$name: it is not there"; fi
    done
}

# backend NAME PORT [ADDRESS]: a server that says who it is, drops nothing that it has begun, and runs until it is killed.
backend() {
    beside "$work/backend-$1.log" python3 "$here/backend.py" "$@"
}

# names URL: how many different ones answer there.
names() {
    [ "$(for _ in $(seq 30); do curl -s "$1" || true; done | sort -u | grep -c '^b')" = "$2" ]
}

part_haproxy() {
    echo "== HAProxy, server-template on SRV"
    need haproxy haproxy python3 python3
    local proxied=$((first + 50)) checked=$((first + 51)) admin="$work/haproxy.sock" n
    for n in 0 1 2; do
        backend "b$n" $((first + 40 + n))
        eval "backend_$n=${pids[-1]}"
    done
    local weights=(10 10 1)
    for n in 0 1 2; do
        offer "$n" "{\"service\": \"shop\", \"id\": \"b$n\", \"address\": {\"host\": \"127.0.0.1\", \"port\": $((first + 40 + n))},
            \"weight\": ${weights[n]}}"
    done
    within 10 answers "$dns" shop.service.tidings SRV 3 || wrong "three are known"
    cat >"$work/haproxy.cfg" <<CONF
global
    stats socket $admin mode 600 level admin
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
    option redispatch 0
    retries 0
    option http-server-close
resolvers tidings
    nameserver agent 127.0.0.1:$dns
    accepted_payload_size 8192
    timeout resolve 1s
    timeout retry 1s
    hold valid 1s
    hold obsolete 0s
frontend by_dns
    bind 127.0.0.1:$proxied
    default_backend by_dns
backend by_dns
    balance roundrobin
    server-template shop 5 _shop._tcp.service.tidings resolvers tidings resolve-prefer ipv4 resolve-opts allow-dup-ip init-addr none
frontend by_check
    bind 127.0.0.1:$checked
    default_backend by_check
backend by_check
    balance roundrobin
    option httpchk GET /
    server b0 127.0.0.1:$((first + 40)) check weight 10
    server b1 127.0.0.1:$((first + 41)) check weight 10
    server b2 127.0.0.1:$((first + 42)) check weight 1
CONF
    beside "$work/haproxy.log" haproxy -db -f "$work/haproxy.cfg"
    within 15 curl -sf -o /dev/null "127.0.0.1:$proxied/" || { wrong "HAProxy has servers"; tail -5 "$work/haproxy.log" >&2; return; }
    # All three are in before anything is counted.
    within 15 sh -c "[ \$(for i in \$(seq 42); do curl -s 127.0.0.1:$proxied/; done | sort -u | wc -l) -eq 3 ]" || wrong "all three have servers"

    python3 "$here/load.py" shares "http://127.0.0.1:$proxied/" 4200 10,10,1 || wrong "shares are within 5 %"

    echo "-- one drains under load"
    python3 "$here/load.py" under "http://127.0.0.1:$proxied/" 8 >"$work/drained.txt" &
    local load=$!
    sleep 2
    # Its agent tells everybody, and withdraws it. The program itself goes on, as one does that finishes its work.
    curl -sSf -o /dev/null -X POST "127.0.0.1:$((http + 1))/v2/offers/b1/drain" -d '{}' || wrong "it can be drained"
    wait "$load" || true
    cat "$work/drained.txt"
    grep -q ' 0 failed' "$work/drained.txt" && ok "none failed" || wrong "some failed when one was drained"
    offer 1 "{\"service\": \"shop\", \"id\": \"b1\", \"address\": {\"host\": \"127.0.0.1\", \"port\": $((first + 41))}, \"weight\": 10}"
    sleep 3

    echo "-- kill -9 of one, with its agent, under load"
    python3 "$here/load.py" under "http://127.0.0.1:$proxied/" 12 >"$work/by_dns.txt" &
    local a=$!
    python3 "$here/load.py" under "http://127.0.0.1:$checked/" 12 >"$work/by_check.txt" &
    local b=$!
    sleep 3
    kill -9 "$pid_1" "$backend_1"
    wait "$a" "$b" || true
    revive
    echo "  through DNS alone:        $(cat "$work/by_dns.txt")"
    echo "  through its own checks:   $(cat "$work/by_check.txt")"
    grep -q ' failed, last failure' "$work/by_dns.txt" && ok "counted beside each other" || wrong "nothing was counted"
}

# The agent that was killed is there again.
revive() {
    agent 1
    pid_1=${pids[-1]}
    local n
    for n in 0 1 2; do within 30 members "$n" 3 || wrong "it is taken in again"; done
}

# Three backends of the service cart, with one port at three addresses: by A records nobody can tell ports.
cart=$((first + 60))
start_cart() {
    local n
    for n in 0 1 2; do
        backend "b$n" "$cart" "127.0.1.$((n + 1))"
        eval "cart_$n=${pids[-1]}"
        offer_cart "$n"
    done
    within 10 answers "$dns" cart.service.tidings A 3 || wrong "three are known"
}

offer_cart() {
    offer "$1" "{\"service\": \"cart\", \"id\": \"b$1\", \"address\": {\"host\": \"127.0.1.$(($1 + 1))\", \"port\": $cart}}"
}

stop_cart() {
    local n
    for n in 0 1 2; do curl -s -o /dev/null -X DELETE "127.0.0.1:$((http + n))/v2/offers/b$n" || true; done
    kill -9 "$cart_0" "$cart_1" "$cart_2" 2>/dev/null || true
}

# under_load NAME URL: one of the backends of cart drains, and its program ends two seconds later, when nobody can have it
# from an answer any more; then one is killed with its agent.
under_load() {
    local name=$1 url=$2 load
    within 15 names "$url" 3 || { wrong "$name calls all three"; tail -5 "$work/$name.log" >&2; return; }
    echo "-- one drains under load"
    python3 "$here/load.py" under "$url" 8 >"$work/$name-drained.txt" &
    load=$!
    sleep 2
    curl -sSf -o /dev/null -X POST "127.0.0.1:$((http + 1))/v2/offers/b1/drain" -d '{}' || wrong "it can be drained"
    sleep 2
    kill -9 "$cart_1"
    wait "$load" || true
    cat "$work/$name-drained.txt"
    grep -q ' 0 failed' "$work/$name-drained.txt" && ok "$name: none failed" || wrong "$name: some failed when one was drained"
    backend b1 "$cart" 127.0.1.2
    cart_1=${pids[-1]}
    offer_cart 1
    within 15 names "$url" 3 || wrong "$name calls it again"

    echo "-- kill -9 of one, with its agent, under load"
    python3 "$here/load.py" under "$url" 8 >"$work/$name-killed.txt" &
    load=$!
    sleep 3
    kill -9 "$pid_1" "$cart_1"
    wait "$load" || true
    echo "  $name: $(cat "$work/$name-killed.txt")"
    python3 "$here/load.py" under "$url" 2 >"$work/$name-after.txt"
    grep -q ' 0 failed' "$work/$name-after.txt" && ok "$name: none of those after" || wrong "$name: some fail for good"
    revive
}

part_caddy() {
    echo "== Caddy, dynamic upstreams by SRV"
    need caddy caddy python3 python3
    local site=$((first + 54))
    start_cart
    # The names in the SRV records are asked for by who connects, which by itself would ask the system. Nothing is tried
    # twice: what fails is seen.
    cat >"$work/Caddyfile" <<CONF
{
    admin off
    auto_https off
}
http://127.0.0.1:$site {
    reverse_proxy {
        dynamic srv {
            name _cart._tcp.service.tidings
            resolvers 127.0.0.1:$dns
            refresh 1s
        }
        transport http {
            resolvers 127.0.0.1:$dns
            keepalive off
        }
    }
}
CONF
    HOME=$work beside "$work/caddy.log" caddy run --config "$work/Caddyfile" --adapter caddyfile
    under_load caddy "http://127.0.0.1:$site/"
    stop_cart
}

part_nginx() {
    echo "== nginx, by A records"
    need nginx nginx python3 python3
    local site=$((first + 55))
    start_cart
    mkdir -p "$work/nginx"
    local head="pid $work/nginx.pid; error_log $work/nginx/error.log; daemon off; master_process off;
events { worker_connections 512; }
http { access_log off; client_body_temp_path $work/nginx; proxy_temp_path $work/nginx; fastcgi_temp_path $work/nginx;
    uwsgi_temp_path $work/nginx; scgi_temp_path $work/nginx; resolver 127.0.0.1:$dns valid=1s ipv6=off;"
    # The open nginx has this from 1.27.3 on.
    echo "$head upstream cart { zone cart 64k; server cart.service.tidings service=_http._tcp resolve; } }" >"$work/resolve.conf"
    if nginx -t -c "$work/resolve.conf" >"$work/resolve.txt" 2>&1; then
        echo "  $(nginx -v 2>&1): has \`server ... resolve\`, which nothing here shows"
    else
        echo "  $(nginx -v 2>&1): \`server ... resolve\` it has not: $(grep -o 'invalid parameter "[^"]*"' "$work/resolve.txt" | head -1)"
    fi
    # A name that is a variable is asked for again. Those that fail are tried elsewhere, as nginx does unless told otherwise.
    echo "$head server { listen 127.0.0.1:$site; set \$cart cart.service.tidings;
    location / { proxy_pass http://\$cart:$cart; proxy_connect_timeout 1s; } } }" >"$work/nginx.conf"
    beside "$work/nginx.log" nginx -c "$work/nginx.conf"
    under_load nginx "http://127.0.0.1:$site/"
    stop_cart
}

part_speed() {
    echo "== questions a second, beside unbound with the same local data"
    need dnsperf dnsperf unbound unbound
    local port=$((first + 33)) n seconds=${SECONDS_EACH:-10}
    {
        echo "server:"
        echo "    interface: 127.0.0.1"
        echo "    port: $port"
        echo "    username: \"\""
        echo "    chroot: \"\""
        echo "    directory: \"$work\""
        echo "    pidfile: \"$work/speed.pid\""
        echo "    use-syslog: no"
        echo "    num-threads: 2"
        echo "    so-reuseport: yes"
        echo "    minimal-responses: no"
        echo "    local-zone: \"tidings.\" static"
        for n in 1 2 3; do
            echo "    local-data: \"speed.service.tidings. 0 IN A 10.6.0.$n\""
            echo "    local-data: \"speed.service.tidings. 0 IN SRV 1 256 80 0a06000$n.addr.dc1.tidings.\""
            echo "    local-data: \"0a06000$n.addr.dc1.tidings. 0 IN A 10.6.0.$n\""
        done
    } >"$work/speed.conf"
    beside "$work/speed.log" unbound -d -p -c "$work/speed.conf"
    for n in 1 2 3; do
        offer 0 "{\"service\": \"speed\", \"id\": \"s$n\", \"address\": {\"host\": \"10.6.0.$n\", \"port\": 80}}"
    done
    within 10 answers "$dns" speed.service.tidings A 3 || wrong "three are known"
    within 10 answers "$port" speed.service.tidings A 3 || wrong "unbound serves the same"
    printf 'speed.service.tidings A\n' >"$work/A.txt"
    printf 'speed.service.tidings SRV\n' >"$work/SRV.txt"
    local kind server rate
    declare -A rates
    for kind in A SRV; do
        for server in tidings:$dns unbound:$port tidings:$dns unbound:$port; do
            dnsperf -s 127.0.0.1 -p "${server#*:}" -d "$work/$kind.txt" -l "$seconds" -c 8 -T 2 -e -q 200 >"$work/perf.txt" 2>&1 || true
            rate=$(sed -n 's/.*Queries per second: *\([0-9]*\).*/\1/p' "$work/perf.txt")
            echo "  $kind ${server%:*}: ${rate:-none} a second, $(sed -n 's/.*Queries lost: *//p' "$work/perf.txt") lost"
            # The better of two: whatever else the machine does only takes away.
            [ "${rate:-0}" -le "${rates[$kind-${server%:*}]:-0}" ] || rates[$kind-${server%:*}]=$rate
        done
        local own=${rates[$kind-tidings]:-0} other=${rates[$kind-unbound]:-1}
        echo "  $kind: $own beside $other, that is $((own * 100 / other)) %"
        if [ "$own" -ge 50000 ] || [ $((own * 2)) -ge "$other" ]; then ok "$kind is fast enough"; else wrong "$kind is too slow"; fi
    done
}

for part in $parts; do
    case $part in
        ask | forward | haproxy | caddy | nginx | speed) "part_$part" ;;
        *) echo "no part $part" >&2; exit 2 ;;
    esac
done
[ "$failures" = 0 ] || { echo "$failures wrong" >&2; exit 1; }
echo "all of it is right"
