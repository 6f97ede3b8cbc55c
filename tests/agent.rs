//! `tidings` beside other programs: a command that it runs, a service manager that it tells, a file that it reads
//! again.
#![cfg(unix)]

mod process;

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use process::{LINES_MAX, PATIENCE, Process, free, tidings};
use serde_json::Value;

impl Process {
    /// A node that prints JSON lines, and its address.
    fn node(name: &str, more: &[&str]) -> (Self, String) {
        let fixed = ["node", "--name", name, "--cluster", "test", "--output", "jsonl"];
        let mut command = tidings(&fixed);
        if !more.contains(&"--config") {
            command.args(["--bind", "127.0.0.1:0"]);
        }
        command.args(more);
        let node = Self::start(command);
        let addr = node.until("ready", |_| true)["addr"].as_str().expect("text").to_owned();
        (node, addr)
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }

    fn until(&self, event: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let next = || serde_json::from_str::<Value>(&self.line()).expect("JSON");
        let mut lines = std::iter::repeat_with(next).take(LINES_MAX);
        lines.find(|line| line["event"] == event && is_wanted(line)).expect("such a line")
    }

    /// Waits for its end, which must come in time.
    fn end(mut self) -> ExitStatus {
        for _ in 0..LINES_MAX {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().expect("it is ours"),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it did not end"),
            }
        }
        panic!("it prints without end");
    }
}

/// Asks an agent; gives the status and the body.
fn ask(addr: &str, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(addr).expect("the agent listens before it is ready");
    stream.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// What stands there, for whoever may read it.
fn get(addr: &str, path: &str) -> Value {
    let (status, body) = ask(addr, "GET", path, "", &Value::Null);
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn put(addr: &str, path: &str, body: &Value) {
    let (status, answer) = ask(addr, "PUT", path, "", body);
    assert_eq!(status, 200, "{path}: {answer}");
}

/// Looks until it is so.
#[expect(clippy::disallowed_methods, reason = "a process is waited for in the time of the real world")]
fn soon(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "it takes no such time");
        std::thread::yield_now();
    }
}

fn run(more: &[&str]) -> std::process::Command {
    let mut command = tidings(&["run", "--name", "r", "--cluster", "test", "--bind", "127.0.0.1:0"]);
    command.args(more);
    command
}

#[test]
fn a_run_ends_with_its_commands_code() {
    let code = |words: &[&str]| {
        let mut command = run(&["--"]);
        command.args(words).stderr(Stdio::null());
        Process::start(command).end().code()
    };
    assert_eq!(code(&["sh", "-c", "exit 7"]), Some(7));
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(code(&["/no/such/command"]), Some(127));
    assert_eq!(code(&["/"]), Some(126));
}

#[test]
fn a_run_without_a_command_or_with_a_check_of_nothing_is_a_usage_error() {
    for (more, needle) in [
        (&["--service", "name=w,addr=h:1"][..], "COMMAND"),
        (&["--check", "tcp:h:1", "--", "true"], "--check belongs to one --service"),
        (&["--check", "tcp:h", "--", "true"], "not HOST:PORT"),
        (&["--control", "stdin", "--", "true"], "no --control"),
    ] {
        let output = run(more).output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {stderr}");
        assert!(stderr.contains(needle), "{more:?}: {stderr}");
    }
}

#[test]
fn a_run_is_offered_while_its_command_lives_and_drains_before_that_is_told_to_end() {
    let (b, addr) = Process::node("b", &[]);
    let script = "trap 'echo told; exit 3' TERM; trap 'echo hup' HUP; echo up; while :; do sleep 0.05; done";
    let mut command = run(&["--join", &addr, "--service", "name=web,addr=127.0.0.1:80,id=w,weight=3"]);
    command.args(["--check", "exec:true interval=100ms", "--", "sh", "-c", script]);
    let running = Process::start(command);
    assert_eq!(running.line(), "up");
    let is_passing = |line: &Value| line["instance"] == "w" && line["record"]["status"]["state"] == "passing";
    b.until("service_changed", is_passing);
    running.signal("HUP");
    assert_eq!(running.line(), "hup");
    running.signal("TERM");
    b.until("service_changed", |line| line["record"]["status"]["state"] == "draining");
    assert_eq!(running.line(), "told");
    b.until("service_down", |line| line["instance"] == "w" && line["reason"] == "member_left");
    assert_eq!(running.end().code(), Some(3));
}

#[test]
fn a_run_whose_check_fails_is_out_of_the_healthy_set() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let sign = dir.path().join("alive");
    std::fs::write(&sign, "").expect("it is written");
    let (b, addr) = Process::node("b", &[]);
    let check = format!("'exec:cat {}' interval=50ms", sign.display());
    let mut command = run(&["--join", &addr, "--service", "name=web,addr=127.0.0.1:80,id=w", "--check", &check]);
    command.args(["--", "sh", "-c", "echo up; while :; do sleep 0.05; done"]);
    let running = Process::start(command);
    assert_eq!(running.line(), "up");
    let is = |state: &'static str| move |line: &Value| line["record"]["status"]["state"] == state;
    b.until("service_changed", is("passing"));
    std::fs::remove_file(&sign).expect("it is there");
    // cat ends with 1, which is a warning.
    b.until("service_changed", is("warning"));
    std::fs::write(&sign, "").expect("it is written");
    b.until("service_changed", is("passing"));
    running.signal("TERM");
    assert_eq!(running.end().code(), Some(128 + 15));
    b.until("service_down", |line| line["instance"] == "w");
}

/// What a service manager is told, until one message has all of these lines.
fn told(socket: &UnixDatagram, wanted: &[&str]) -> String {
    let mut buffer = [0; 4_096];
    for _ in 0..LINES_MAX {
        let length = socket.recv(&mut buffer).expect("a message in time");
        let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if wanted.iter().all(|wanted| message.lines().any(|line| line.starts_with(wanted))) {
            return message;
        }
    }
    panic!("no message with {wanted:?}");
}

#[test]
fn a_service_manager_is_told_of_the_join_the_loop_a_reload_and_the_end() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    let mut command =
        tidings(&["node", "--name", "a", "--cluster", "test", "--bind", "127.0.0.1:0", "--service", "name=w,addr=h:1"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let node = Process::start(command);
    let ready = told(&socket, &["READY=1", "STATUS="]);
    assert!(ready.contains("STATUS=1 member reachable of 1"), "{ready}");
    for _ in 0..3 {
        told(&socket, &["WATCHDOG=1"]);
    }
    node.signal("HUP");
    told(&socket, &["RELOADING=1", "MONOTONIC_USEC="]);
    told(&socket, &["READY=1"]);
    node.signal("TERM");
    told(&socket, &["STOPPING=1", "EXTEND_TIMEOUT_USEC="]);
    assert_eq!(node.end().code(), Some(0));
}

#[test]
fn a_reload_before_the_join_is_not_taken_for_the_end_of_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    // Nobody answers there.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let seed = silent.local_addr().expect("it is bound").to_string();
    let mut command = tidings(&["node", "--name", "a", "--cluster", "test", "--bind", "127.0.0.1:0"]);
    command.args(["--join", &seed, "--join-policy", "background", "--drain-timeout", "0s", "--output", "jsonl"]);
    command.env("NOTIFY_SOCKET", &path);
    let node = Process::start(command);
    node.until("promise", |_| true);
    node.signal("HUP");
    node.until("reloaded", |_| true);
    node.signal("TERM");
    let first = told(&socket, &[]);
    assert!(first.starts_with("STOPPING=1"), "{first}");
    assert_eq!(node.end().code(), Some(0));
}

#[test]
fn a_run_whose_member_has_left_is_still_alive_to_a_service_manager() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (path, sign) = (dir.path().join("notify"), dir.path().join("end"));
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("it can be set");
    let (b, addr) = Process::node("b", &[]);
    let wait = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 0", sign.display());
    let script = format!("trap '{wait}' TERM; echo up; while :; do sleep 0.05; done");
    let mut command = run(&["--join", &addr, "--drain-timeout", "100ms", "--", "sh", "-c", &script]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
    let running = Process::start(command);
    assert_eq!(running.line(), "up");
    running.signal("TERM");
    b.until("member_left", |line| line["member"] == "r");
    // What was sent before it left says nothing.
    socket.set_nonblocking(true).expect("it can be set");
    let mut buffer = [0; 4_096];
    while socket.recv(&mut buffer).is_ok() {}
    socket.set_nonblocking(false).expect("it can be set");
    for _ in 0..3 {
        told(&socket, &["WATCHDOG=1"]);
    }
    std::fs::write(&sign, "").expect("it is written");
    assert_eq!(running.end().code(), Some(0));
}

/// A file of settings, and of tokens, that can be written anew.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("it can be written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
}

#[test]
fn a_sighup_reads_the_tokens_again_and_wrong_ones_change_nothing() {
    const OLD: &str = "0123456789abcdef-old";
    const NEW: &str = "0123456789abcdef-new";
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (settings, tokens) = (dir.path().join("tidings.toml"), dir.path().join("tokens"));
    let http = free();
    let config = |more: &str| {
        let tokens = tokens.display();
        write(&settings, &format!("bind = \"127.0.0.1:0\"\nhttp = \"{http}\"\nhttp_tokens = \"{tokens}\"\n{more}"));
    };
    config("");
    write(&tokens, &format!("{OLD} write\n"));
    let (node, _) = Process::node("a", &["--config", settings.to_str().expect("text")]);
    let status = |token: &str| ask(&http, "GET", "/v2/members", token, &Value::Null).0;
    assert_eq!((status(OLD), status(NEW), status("")), (200, 401, 401));

    write(&tokens, &format!("{NEW} write\n"));
    config("drain_timeout = \"1s\"\n");
    node.signal("HUP");
    let reloaded = node.until("reloaded", |_| true);
    assert_eq!(reloaded["changed"], serde_json::json!(["drain_timeout", "http_tokens"]));
    assert_eq!((status(OLD), status(NEW)), (401, 200));
    let (_, shown) = ask(&http, "GET", "/v2/config", NEW, &Value::Null);
    let timeout = shown["settings"].as_array().expect("a list").iter().find(|one| one["key"] == "drain_timeout");
    assert_eq!(timeout.expect("it is there")["value"], "1s");

    write(&tokens, "short write\n");
    node.signal("HUP");
    let error = node.until("error", |_| true);
    assert!(error["reason"].as_str().is_some_and(|reason| reason.contains("nothing changed")), "{error}");
    assert_eq!(status(NEW), 200);
    write(&tokens, &format!("# the same\n{NEW} write\n"));
    node.signal("HUP");
    assert_eq!(node.until("reloaded", |_| true)["changed"], serde_json::json!([]));
}

#[test]
fn a_sighup_reads_the_certificate_again_and_a_broken_one_is_tried_again_while_the_old_one_serves() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let pem = |path: &str, label: &str, der: &[u8]| {
        let text = data_encoding::BASE64.encode(der);
        write(Path::new(path), &format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n"));
    };
    let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (first, second) = (pair(), pair());
    pem(&certificate, "CERTIFICATE", first.cert.der());
    pem(&key, "PRIVATE KEY", &first.signing_key.serialize_der());
    let http = free();
    let (node, _) = Process::node("a", &["--http", &http, "--http-cert", &certificate, "--http-key", &key]);
    let port = http.rsplit(':').next().expect("a port");
    let trusts = |pair: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let ca = path("ca.pem");
        pem(&ca, "CERTIFICATE", pair.cert.der());
        let mut command = tidings(&["members", "--api", &format!("https://localhost:{port}"), "--ca", &ca]);
        command.output().expect("it ends").status.success()
    };
    assert!(trusts(&first) && !trusts(&second));

    pem(&certificate, "CERTIFICATE", second.cert.der());
    node.signal("HUP");
    let reloaded = node.until("reloaded", |_| true);
    assert!(reloaded["wrong"][0].as_str().is_some_and(|wrong| wrong.starts_with("http_cert: ")), "{reloaded}");
    assert_eq!((&reloaded["changed"], &reloaded["retry_ms"]), (&serde_json::json!([]), &Value::from(1_000)));
    assert!(trusts(&first), "the one from before goes on");
    pem(&key, "PRIVATE KEY", &second.signing_key.serialize_der());
    let reloaded = node.until("reloaded", |line| line["wrong"] == serde_json::json!([]));
    assert_eq!(reloaded["changed"], serde_json::json!(["http_cert"]), "without another signal");
    assert!(trusts(&second) && !trusts(&first));
}

#[test]
fn what_a_reload_could_not_change_is_tried_again_and_what_a_door_took_over_stays() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let settings = dir.path().join("tidings.toml");
    let http = free();
    let config = |services: &[(&str, &str)]| {
        let of = |(name, check): &(&str, &str)| {
            format!("[[service]]\nname = \"{name}\"\nid = \"{name}\"\naddr = \"127.0.0.1:80\"\n{check}\n")
        };
        let services: String = services.iter().map(of).collect();
        write(&settings, &format!("bind = \"127.0.0.1:0\"\nhttp = \"{http}\"\n{services}"));
    };
    config(&[("web", ""), ("api", "")]);
    let (node, _) = Process::node("a", &["--config", settings.to_str().expect("text")]);
    let address = serde_json::json!({ "host": "127.0.0.1", "port": 81 });
    let check = serde_json::json!({ "kind": "ttl", "ttl_ms": 600_000, "id": "beat" });
    let of_door = |service: &str| serde_json::json!({ "service": service, "address": address, "checks": [check] });
    put(&http, "/v2/offers/web", &of_door("web"));

    let beat = "[[service.check]]\ntarget = \"ttl:10m\"\nid = \"beat\"";
    config(&[("db", beat)]);
    node.signal("HUP");
    let reloaded = node.until("reloaded", |_| true);
    assert_eq!(reloaded["withdrawn"], serde_json::json!(["api"]), "web is the door's by now");
    assert!(reloaded["wrong"][0].as_str().is_some_and(|wrong| wrong.starts_with("db: check \"beat\"")), "{reloaded}");
    assert_eq!((&reloaded["offered"], &reloaded["retry_ms"]), (&serde_json::json!([]), &Value::from(1_000)));
    let (status, _) = ask(&http, "DELETE", "/v2/offers/web", "", &Value::Null);
    assert_eq!(status, 200);
    let reloaded = node.until("reloaded", |line| line["wrong"] == serde_json::json!([]));
    assert_eq!((&reloaded["offered"], &reloaded["retry_ms"]), (&serde_json::json!(["db"]), &Value::Null));
}

#[test]
fn what_was_registered_over_http_outlives_kill_9_with_its_checks_and_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let (b, seed) = Process::node("b", &[]);
    let http = free();
    let start = || {
        let more = ["--join", &seed, "--http", &http, "--data-dir", data.to_str().expect("text")];
        Process::node("a", &[&more[..], &["--service", "name=own,addr=127.0.0.1:82,id=own"]].concat()).0
    };
    let mut a = start();
    let register = |name: &str, ttl: &str| {
        let check = serde_json::json!({ "TTL": ttl });
        put(&http, "/v1/agent/service/register", &serde_json::json!({ "Name": name, "Port": 80, "Check": check }));
    };
    register("web", "4s");
    register("db", "10m");
    put(&http, "/v1/agent/check/pass/service:web", &Value::Null);
    // How a check stands is written down a moment later.
    let kept = data.join("offers.json");
    soon(|| std::fs::read_to_string(&kept).is_ok_and(|kept| kept.contains("\"level\":\"passing\"")));
    a.child.kill().expect("it runs");
    a.child.wait().expect("it is ours");

    let again = start();
    let mine = get(&http, "/v1/agent/services");
    let ids: Vec<&String> = mine.as_object().expect("an object").keys().collect();
    assert_eq!(ids, ["db", "own", "web"], "all are there when it says that it is ready");
    let checks = get(&http, "/v1/agent/checks");
    assert_eq!(checks.as_object().expect("an object").len(), 2);
    let is = |check: &str| checks[check]["Status"].as_str().expect("text").to_owned();
    assert_eq!((is("service:db"), is("service:web")), ("critical".to_owned(), "passing".to_owned()), "as they stood");
    // Nobody tells the second one any more: it has its time from the restart on.
    again.until("service_changed", |line| line["instance"] == "web" && line["record"]["status"]["state"] == "critical");
    let output = get(&http, "/v1/agent/checks")["service:web"]["Output"].as_str().expect("text").to_owned();
    assert!(output.contains("nothing was heard for 4s"), "{output}");
    for service in ["web", "db", "own"] {
        let entries = get(&http, &format!("/v1/health/service/{service}"));
        assert_eq!(entries.as_array().map(Vec::len), Some(1), "{service}: {entries}");
    }
    again.signal("TERM");
    b.until("service_down", |line| line["instance"] == "own" && line["reason"] == "member_left");
    assert_eq!(again.end().code(), Some(0));
}

#[test]
fn a_file_that_changed_is_taken_in_by_sighup_and_a_wrong_one_changes_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tidings.toml");
    let write = |text: &str| {
        let mut file = std::fs::File::create(&path).expect("it can be written");
        file.write_all(text.as_bytes()).expect("it can be written");
    };
    let service = |name: &str, more: &str| format!("[[service]]\nname = \"{name}\"\naddr = \"127.0.0.1:80\"\n{more}\n");
    let base = "bind = \"127.0.0.1:0\"\n";
    write(&format!("{base}{}{}", service("web", ""), service("api", "")));
    let (node, _) = Process::node("a", &["--config", path.to_str().expect("text")]);
    let list = |line: &Value, of: &str| line[of].as_array().expect("a list").clone();

    let check = "[[service.check]]\ntarget = \"ttl:30s\"\ninitial = \"warning\"";
    write(&format!("{base}drain_timeout = \"1s\"\nzone = \"z\"\n{}{}", service("web", check), service("db", "")));
    node.signal("HUP");
    let reloaded = node.until("reloaded", |_| true);
    assert_eq!(list(&reloaded, "changed"), ["drain_timeout", "service"]);
    assert_eq!(list(&reloaded, "needs_restart"), ["zone"]);
    assert_eq!(list(&reloaded, "offered"), ["db@a:80", "web@a:80"]);
    assert_eq!(list(&reloaded, "withdrawn"), ["api@a:80"]);
    node.until("service_changed", |line| {
        line["instance"] == "web@a:80" && line["record"]["status"]["state"] == "warning"
    });

    write("bnid = \"127.0.0.1:0\"\n");
    node.signal("HUP");
    let error = node.until("error", |_| true);
    assert!(error["reason"].as_str().expect("text").contains("nothing changed"), "{error}");
    assert!(error["reason"].as_str().expect("text").contains("did you mean \"bind\"?"), "{error}");
    write(&format!("{base}{}", service("db", "")));
    node.signal("HUP");
    let reloaded = node.until("reloaded", |_| true);
    assert_eq!(list(&reloaded, "withdrawn"), ["web@a:80"], "the wrong file had withdrawn nothing");
    node.signal("TERM");
    assert_eq!(node.end().code(), Some(0));
}

#[test]
fn every_option_of_a_run_has_an_environment_variable() {
    let output = tidings(&["run", "--help"]).output().expect("it ends");
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let (help, _) = help.split_once("Examples:").expect("there are examples");
    let options = help.lines().filter(|line| line.starts_with("      --")).count();
    assert!(options > 20);
    assert_eq!(help.matches("[env: TIDINGS_").count(), options, "{help}");
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let output = |arguments: &[&str]| {
        let output = tidings(arguments).output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, _) = output(&["completions", shell]);
        assert!(code == Some(0) && script.contains("drain-timeout"), "{shell}");
    }
    let (code, page, _) = output(&["man"]);
    assert!(code == Some(0) && page.contains(".TH tidings") && page.contains("Exit codes"), "{page}");
    let (code, page, _) = output(&["man", "node"]);
    assert!(code == Some(0) && page.contains("drain"), "{page}");
    let (code, _, stderr) = output(&["man", "nod"]);
    assert!(code == Some(2) && stderr.contains("did you mean node?"), "{stderr}");
}
