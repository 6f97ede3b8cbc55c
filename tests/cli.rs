//! The `tidings` command as others see it: arguments, exit codes, lines on standard output, commands on standard input.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// Far more than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A key for rotating to; its id is 34.
const SECOND_KEY: &str = "tdk1_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwdLsG-O";

/// Lines that are read in search of one, so that a test ends whatever is printed.
const LINES_MAX: usize = 10_000;

fn tidings(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
    command.env_remove("RUST_LOG").args(arguments);
    command
}

/// Runs to the end, which must come within a minute.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    output(tidings(arguments))
}

fn output(mut command: Command) -> (Option<i32>, String, String) {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the binary was built for this test");
    let id = child.id();
    let (tell, ended) = mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    let ended = ended.recv_timeout(3 * PATIENCE).unwrap_or_else(|_| {
        signal("KILL", id);
        panic!("{command:?} did not end");
    });
    let Output { status, stdout, stderr } = ended.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The arguments of a node on a free port that prints JSON lines and takes commands.
fn node<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "node",
        "--name",
        name,
        "--cluster",
        "test",
        "--bind",
        "127.0.0.1:0",
        "--output",
        "jsonl",
        "--control",
        "stdin",
    ];
    fixed.iter().chain(more).copied().collect()
}

/// A running node; killed when dropped.
struct Node {
    child: Option<Child>,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    addr: String,
}

impl Node {
    /// Starts a node and waits until it is ready.
    fn start(arguments: &[&str]) -> Self {
        let mut child = tidings(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the binary was built for this test");
        let lines = lines_of(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        let mut node = Self { child: Some(child), stdin, lines, addr: String::new() };
        let ready = node.until("ready", |_| true);
        assert_eq!(ready["schema"], 1);
        node.addr = ready["addr"].as_str().unwrap().to_owned();
        node
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("open until closed by the test"), "{line}").unwrap();
    }

    /// Says a command and gives its answer, which is the next line of that event.
    fn ask(&mut self, line: &str, event: &str) -> Value {
        self.say(line);
        self.until(event, |_| true)
    }

    /// The next line that is one of these events.
    fn until_any(&self, events: &[&str]) -> Value {
        let next = || serde_json::from_str::<Value>(&self.lines.recv_timeout(PATIENCE).expect("a line")).expect("JSON");
        std::iter::repeat_with(next)
            .take(LINES_MAX)
            .find(|line| events.iter().any(|event| line["event"] == *event))
            .expect("one of these events")
    }

    /// The next line of this event that is as wanted.
    fn until(&self, event: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..LINES_MAX {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("no {event:?} as wanted: {e}"));
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?} is no JSON: {e}"));
            assert!(line["ts"].as_str().unwrap().ends_with('Z'), "{line}");
            if line["event"] == event && is_wanted(&line) {
                return line;
            }
        }
        panic!("{LINES_MAX} lines, and none was {event:?} as wanted");
    }

    /// Waits until the process has ended by itself.
    fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("ends once");
        let id = child.id();
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || tell.send(child.wait()));
        ended
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| {
                signal("KILL", id);
                panic!("the node did not end");
            })
            .unwrap()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The lines of a process, read beside the test, so that none is waited for without end.
fn lines_of(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn help_and_version_are_no_errors() {
    let commands = [&["--help"][..], &["--version"], &["node", "--help"], &["demo", "--help"], &["man", "--help"]];
    for arguments in commands {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(!stdout.is_empty());
    }
    let (_, help, _) = run(&["--help"]);
    for code in ["0  success", "1  failed", "2  usage", "6  timeout", "7  refused"] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn every_option_has_an_environment_variable() {
    for command in ["node", "demo"] {
        let (_, help, _) = run(&[command, "--help"]);
        let options = help.lines().filter(|line| line.trim_start().starts_with("--") && line.starts_with("      --"));
        let options = options.count();
        assert!(options > 0);
        assert_eq!(help.matches("[env: TIDINGS_").count(), options, "{help}");
    }
}

#[test]
fn a_wrong_argument_ends_with_code_2_and_says_what_is_wrong() {
    let base = ["node", "--name", "a", "--cluster", "c"];
    let cases: &[(&[&str], &[&str])] = &[
        (&["--bind", "localhost"], &["--bind", "localhost"]),
        (&["--join", "nowhere"], &["--join", "\"nowhere\"", "HOST:PORT"]),
        (&["--join", "127.0.0.1:0"], &["--join", "HOST:PORT"]),
        (&["--join-timeout", "30"], &["--join-timeout", "\"30\"", "ms, s or m"]),
        (&["--join-policy", "maybe"], &["maybe", "require", "warn", "background"]),
        (&["--output", "xml"], &["xml", "table", "jsonl"]),
        (&["--control", "tcp"], &["tcp", "stdin"]),
        (&["--zone", " a"], &["zone \" a\"", "white space"]),
        (&["--service", "name=web"], &["--service", "addr is missing"]),
        (&["--service", "name=web,addr=h:1,wieght=2"], &["\"wieght\"", "did you mean weight?", "allowed"]),
        (&["--service", "name=web,addr=h:1,weight=x"], &["weight=\"x\"", "0 to 65535"]),
        (&["--service", "name=web,addr=h:1", "--service", "name=web,addr=i:1"], &["\"web@a:1\"", "id="]),
    ];
    for (arguments, parts) in cases {
        let all: Vec<_> = base.iter().chain(*arguments).copied().collect();
        let (code, stdout, stderr) = run(&all);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        for part in *parts {
            assert!(stderr.contains(part), "{arguments:?} gave {stderr:?} without {part:?}");
        }
    }
    for arguments in
        [&[][..], &["nod"], &["node"], &["node", "--name", "", "--cluster", "c"], &["demo", "--nodes", "2"]]
    {
        assert_eq!(run(arguments).0, Some(2), "{arguments:?}");
    }
}

#[test]
fn an_address_that_others_can_reach_is_refused_with_code_7() {
    let mut arguments = node("a", &[]);
    arguments[6] = "0.0.0.0:0";
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(code, Some(7), "{stderr}");
    assert!(stderr.contains("0.0.0.0:0") && stderr.contains("loopback"), "{stderr}");
    let error: Value = serde_json::from_str(stdout.trim_end()).unwrap();
    assert_eq!(error["event"], "error");
    assert!(error["reason"].as_str().unwrap().contains("loopback"));
}

#[test]
fn a_seed_that_does_not_answer_ends_with_code_6() {
    // Nobody else listens on a port that this socket holds, and the socket answers nothing.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let seed = silent.local_addr().unwrap().to_string();
    let (code, _, stderr) = run(&node("a", &["--join", &seed, "--join-timeout", "300ms"]));
    assert_eq!(code, Some(6), "{stderr}");
    assert!(stderr.contains(&seed), "{stderr}");
}

#[test]
fn arguments_can_come_from_the_environment() {
    let mut command = tidings(&["node", "--output", "jsonl"]);
    command.envs([("TIDINGS_NAME", "a"), ("TIDINGS_CLUSTER", "c"), ("TIDINGS_BIND", "0.0.0.0:0")]);
    assert_eq!(output(command).0, Some(7));
}

#[test]
fn the_control_channel_answers_every_line() {
    let mut node = Node::start(&node("a", &["--service", r"name=web,addr=127.0.0.1:80,meta.list=a\,b"]));
    let up = node.until("service_up", |_| true);
    assert_eq!((&up["service"], &up["instance"], &up["member"]), (&"web".into(), &"web@a:80".into(), &"a".into()));
    assert_eq!(up["record"]["meta"]["list"], "a,b");

    let answer = node.ask("register name=api,addr=127.0.0.1:81,id=api-1,tag=x,tag=y,zone=z", "registered");
    assert_eq!((&answer["service"], &answer["instance"]), (&"api".into(), &"api-1".into()));
    node.until("service_up", |line| line["instance"] == "api-1");

    assert_eq!(node.ask("update api-1 tag=v2 zone= meta.k=v", "updated")["instance"], "api-1");
    let changed = node.until("service_changed", |line| line["instance"] == "api-1");
    assert_eq!(changed["record"]["tags"], serde_json::json!(["v2"]));
    assert_eq!((&changed["record"]["zone"], &changed["record"]["meta"]["k"]), (&Value::Null, &"v".into()));

    let view = node.ask("view", "view");
    assert_eq!(view["member"], "a");
    assert_eq!(view["members"][0]["state"], "reachable");
    let names: Vec<_> = view["services"].as_array().unwrap().iter().map(|s| s["service"].as_str().unwrap()).collect();
    assert_eq!(names, ["api", "web"]);
    assert_eq!(view["services"][0]["instances"][0]["record"]["id"], "api-1");

    assert_eq!(node.ask("withdraw api-1", "withdrawn")["instance"], "api-1");
    assert_eq!(node.until("service_down", |line| line["instance"] == "api-1")["reason"], "withdrawn");
    assert!(node.ask("stats", "stats")["stats"].is_object());

    let long = format!("register name=web,addr=h:1,meta.k={}", "x".repeat(130 * 1024));
    let refusals = [
        ("jump", "allowed: register, offer, update, withdraw, tell, checks, maintenance, drain, leave, view, stats"),
        ("regsiter name=x", "did you mean register?"),
        ("withdraw api-1", "registered are: web@a:80"),
        ("update web@a:80 wieght=1", "did you mean weight?"),
        ("register name=web,addr=127.0.0.1:80", "already registered"),
        (&long, "131072 bytes"),
    ];
    for (line, part) in refusals {
        let error = node.ask(line, "error");
        assert!(error["reason"].as_str().unwrap().contains(part), "{line:.40} gave {error}");
    }

    node.ask("leave", "left");
    assert_eq!(node.end().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn what_was_offered_is_back_with_its_checks_after_a_kill_and_nothing_is_there_twice() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().to_str().expect("text").to_owned();
    let service = "name=fixed,addr=127.0.0.1:1,check=ttl:30s initial=passing";
    let mut a = Node::start(&node("a", &["--data-dir", &data, "--service", service]));
    let mut b = Node::start(&node("b", &["--join", &a.addr]));
    let offered = a.ask("offer name=web,addr=127.0.0.1:80,check=ttl:30s,check=exec:true", "error");
    assert!(offered["reason"].as_str().unwrap().contains("the agent's own configuration"), "{offered}");
    for _ in 0..2 {
        a.ask("offer name=web,addr=127.0.0.1:80,id=w,check=ttl:60s name='the beat'", "registered");
    }
    a.ask("tell service:w passing well", "told");
    a.ask("maintenance on fixed@a:1 for=10m disk swap", "maintenance");
    statuses_until(&mut b, &[("fixed@a:1", "maintenance"), ("w", "passing")]);
    // What a check says is written down a moment later.
    let kept = dir.path().join("offers.json");
    let is_kept = || std::fs::read_to_string(&kept).is_ok_and(|text| text.contains(r#""level":"passing""#));
    let was_kept = (0..LOOKS_MAX).any(|_| {
        a.ask("stats", "stats");
        is_kept()
    });
    assert!(was_kept, "the level was not written down");
    signal("KILL", a.child.as_ref().expect("it runs").id());
    a.end();

    let mut again = Node::start(&node("a", &["--data-dir", &data, "--service", service, "--join", &b.addr]));
    let checks = again.ask("checks", "checks");
    let checks: Vec<(&str, &str)> = checks["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (check["id"].as_str().unwrap(), check["level"].as_str().unwrap()))
        .collect();
    assert_eq!(checks, [("service:fixed@a:1", "passing"), ("service:w", "passing")]);
    statuses_until(&mut b, &[("fixed@a:1", "maintenance"), ("w", "passing")]);
    again.ask("withdraw w", "withdrawn");
    assert!(!std::fs::read_to_string(&kept).expect("it is there").contains("\"web\""));
}

#[test]
fn the_end_of_the_input_changes_nothing_and_a_signal_leaves() {
    for name in ["TERM", "INT"] {
        let mut node = Node::start(&node("a", &[]));
        node.ask("view", "view");
        node.stdin = None;
        signal(name, node.child.as_ref().unwrap().id());
        assert_eq!(node.end().code(), Some(0), "SIG{name}");
    }
}

#[test]
fn a_closed_pipe_is_a_normal_end() {
    let mut child =
        tidings(&node("a", &[])).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains(r#""event":"ready""#), "{line}");
    drop(stdout);
    // An answer finds nobody. Standard input stays open, so only that can end the node. Asked again and again: a
    // process that another test starts holds this pipe too, from its fork to its exec, and takes an answer with it.
    let mut stdin = child.stdin.take().unwrap();
    let (end, ended) = mpsc::channel::<()>();
    let asking = std::thread::spawn(move || {
        for _ in 0..PATIENCE.as_millis() / 50 {
            let is_over = ended.recv_timeout(Duration::from_millis(50)) != Err(mpsc::RecvTimeoutError::Timeout);
            if is_over || stdin.write_all(b"view\n").is_err() {
                return;
            }
        }
    });
    let mut stderr = child.stderr.take().unwrap();
    let mut node = Node { child: Some(child), stdin: None, lines: mpsc::channel().1, addr: String::new() };
    assert_eq!(node.end().code(), Some(0));
    drop(end);
    asking.join().unwrap();
    let mut told = String::new();
    stderr.read_to_string(&mut told).unwrap();
    assert_eq!(told, "");
}

#[test]
fn a_table_into_a_pipe_is_lines_without_colour() {
    let arguments = ["node", "--name", "a", "--cluster", "test", "--bind", "127.0.0.1:0", "--service"];
    let mut child = tidings(&arguments)
        .arg("name=web,addr=127.0.0.1:80,tag=v1")
        .env("CLICOLOR_FORCE", "0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    let mut node = Node { child: Some(child), stdin: None, lines, addr: String::new() };
    let lines: Vec<String> = (0..4).map(|_| node.lines.recv_timeout(PATIENCE).unwrap()).collect();
    node.kill();
    assert!(lines.iter().all(|line| !line.contains('\x1b')), "{lines:?}");
    assert!(lines[0].contains("ready"), "{lines:?}");
    assert!(lines[1].contains("member_up          a 127.0.0.1:"), "{lines:?}");
    assert!(lines[3].contains("promise            a crash is known to everybody after 1."), "{lines:?}");
    assert!(lines[2].contains("service_up         web web@a:80 on a at 127.0.0.1:80 tag=v1"), "{lines:?}");
}

#[test]
fn an_operator_forgets_who_is_unreachable_and_nobody_who_lives() {
    let mut a = Node::start(&node("a", &[]));
    let joins = a.addr.clone();
    let mut b = Node::start(&node("b", &["--join", &joins]));
    a.until("member_up", |line| line["member"] == "b");
    let refused = a.ask("forget b", "error");
    assert!(refused["reason"].as_str().unwrap().contains("only a member that is unreachable"), "{refused}");
    assert!(a.ask("forget c", "error")["reason"].as_str().unwrap().contains("no member"));
    b.kill();
    a.until("member_unreachable", |line| line["member"] == "b");
    // It may have been heard a moment before it was killed.
    let forgotten = (0..LOOKS_MAX).any(|_| {
        a.say("forget b");
        let answer = a.until_any(&["forgotten", "error"]);
        answer["event"] == "forgotten" && answer["member"] == "b"
    });
    assert!(forgotten, "it never was");
    let story = a.ask("explain b", "explanation");
    assert_eq!((story["state"].as_str(), story["finding"].as_str()), (Some("down"), Some("forgotten")), "{story}");
}

/// How long it is asked again for a view that is not yet as wanted: each time answers at once, so this is generous.
const LOOKS_MAX: usize = 100_000;

/// Asks for the view until it is as wanted; the members in it by name and state, the instances by member and id.
fn view_until(node: &mut Node, is_wanted: impl Fn(&[(String, String)], &[(String, String)]) -> bool) {
    let pairs = |list: &[&Value], a: &str, b: &dyn Fn(&Value) -> Value| -> Vec<(String, String)> {
        list.iter().map(|v| (v[a].as_str().unwrap().to_owned(), b(v).as_str().unwrap().to_owned())).collect()
    };
    for _ in 0..LOOKS_MAX {
        let view = node.ask("view", "view");
        let members: Vec<&Value> = view["members"].as_array().unwrap().iter().collect();
        let services = view["services"].as_array().unwrap();
        let instances: Vec<&Value> = services.iter().flat_map(|s| s["instances"].as_array().unwrap()).collect();
        let members = pairs(&members, "member", &|v| v["state"].clone());
        let instances = pairs(&instances, "member", &|v| v["record"]["id"].clone());
        if is_wanted(&members, &instances) {
            return;
        }
    }
    panic!("the view did not become as wanted");
}

/// Waits until these are the ids and statuses of all instances.
#[cfg(unix)]
fn statuses_until(node: &mut Node, wanted: &[(&str, &str)]) {
    let mut seen = Vec::new();
    for _ in 0..LOOKS_MAX {
        let view = node.ask("view", "view");
        let services = view["services"].as_array().unwrap().clone();
        let instances = services.iter().flat_map(|service| service["instances"].as_array().unwrap().clone());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        seen = instances.map(|one| (text(&one["record"]["id"]), text(&one["record"]["status"]["state"]))).collect();
        seen.sort_unstable();
        if seen.iter().map(|(id, status)| (id.as_str(), status.as_str())).eq(wanted.iter().copied()) {
            return;
        }
    }
    panic!("the last that was seen: {seen:?}");
}

#[test]
fn two_nodes_see_each_other_and_each_change() {
    let mut a = Node::start(&node("a", &["--service", "name=web,addr=127.0.0.1:80,id=web-a"]));
    let seed = a.addr.clone();
    let mut b = Node::start(&node("b", &["--join", &seed, "--service", "name=web,addr=127.0.0.1:81,id=web-b"]));

    let up = a.until("member_up", |line| line["member"] == "b");
    assert_eq!(up["addr"], b.addr.as_str());
    let up = a.until("service_up", |line| line["instance"] == "web-b");
    assert_eq!((&up["member"], &up["record"]["address"]["port"]), (&"b".into(), &81.into()));
    // The late one knows what was there before it.
    b.until("service_up", |line| line["instance"] == "web-a");
    let members = [("a", "reachable"), ("b", "reachable")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let instances = [("a", "web-a"), ("b", "web-b")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    for node in [&mut a, &mut b] {
        view_until(node, |m, i| m == members && i == instances);
    }

    b.ask("update web-b tag=v2 weight=7", "updated");
    let changed = a.until("service_changed", |line| line["instance"] == "web-b");
    assert_eq!((&changed["record"]["tags"][0], &changed["record"]["weight"]), (&"v2".into(), &7.into()));
    b.ask("withdraw web-b", "withdrawn");
    let down = a.until("service_down", |line| line["instance"] == "web-b");
    assert_eq!(down["reason"], "withdrawn");
    b.ask("register name=api,addr=127.0.0.1:82", "registered");
    a.until("service_up", |line| line["instance"] == "api@b:82");

    b.ask("leave", "left");
    assert_eq!(b.end().code(), Some(0));
    // Which of the two comes first is not promised.
    let mut said = Vec::new();
    while said.len() < 2 {
        let line: Value = serde_json::from_str(&a.lines.recv_timeout(PATIENCE).unwrap()).unwrap();
        assert_eq!(line["member"], "b", "{line}");
        said.push((line["event"].as_str().unwrap().to_owned(), line["reason"].as_str().map(str::to_owned)));
    }
    said.sort();
    let expected = [("member_left", None), ("service_down", Some("member_left"))];
    assert_eq!(said, expected.map(|(event, reason)| (event.to_owned(), reason.map(str::to_owned))));
    view_until(&mut a, |members, instances| members.len() == 1 && instances.len() == 1);
}

#[test]
fn a_signal_is_a_goodbye() {
    let a = Node::start(&node("a", &[]));
    let seed = a.addr.clone();
    let mut b = Node::start(&node("b", &["--join", &seed, "--service", "name=web,addr=127.0.0.1:81"]));
    a.until("service_up", |line| line["member"] == "b");
    signal("TERM", b.child.as_ref().unwrap().id());
    let drained = b.until("drained", |line| line["member"] == "b");
    assert_eq!((&drained["clean"], &drained["confirmed"]), (&Value::from(true), &Value::from(1)), "{drained}");
    assert_eq!(b.end().code(), Some(0));
    a.until("service_changed", |line| line["record"]["status"]["state"] == "draining");
    a.until("member_left", |line| line["member"] == "b");
}

#[test]
fn a_drain_that_is_cut_off_names_who_is_silent_and_ends_with_code_8() {
    let a = Node::start(&node("a", &[]));
    let seed = a.addr.clone();
    let arguments = ["--join", &seed, "--service", "name=web,addr=127.0.0.1:81", "--drain-timeout", "150ms"];
    let mut b = Node::start(&node("b", &arguments));
    a.until("service_up", |line| line["member"] == "b");
    view_until(&mut b, |members, _| members.len() == 2);
    signal("STOP", a.child.as_ref().unwrap().id());
    b.say("drain");
    let drained = b.until("drained", |line| line["member"] == "b");
    signal("CONT", a.child.as_ref().unwrap().id());
    assert_eq!((&drained["clean"], &drained["unconfirmed"][0]["member"]), (&Value::from(false), &Value::from("a")));
    assert_eq!(drained["unconfirmed"][0]["reason"], "silent", "{drained}");
    assert_eq!(b.end().code(), Some(8));
}

#[test]
fn a_name_that_is_taken_is_refused_with_code_7() {
    let a = Node::start(&node("a", &[]));
    let (code, stdout, stderr) = run(&node("a", &["--join", &a.addr]));
    assert_eq!(code, Some(7), "{stderr}");
    assert!(stderr.contains("\"a\"") && stderr.contains(&a.addr), "{stderr}");
    assert!(stdout.contains(r#""event":"error""#), "{stdout}");
}

#[test]
fn a_port_in_use_is_named() {
    let a = Node::start(&node("a", &[]));
    let mut arguments = node("b", &[]);
    arguments[6] = &a.addr;
    let (code, _, stderr) = run(&arguments);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&a.addr), "{stderr}");
}

#[test]
fn another_clusters_member_is_not_joined_and_both_say_why() {
    let a = Node::start(&node("a", &[]));
    let mut arguments = node("b", &["--join", &a.addr, "--join-timeout", "2s"]);
    arguments[4] = "other";
    let (code, _, stderr) = run(&arguments);
    assert_eq!(code, Some(7), "{stderr}");
    let error = a.until("error", |_| true);
    assert!(error["reason"].as_str().unwrap().contains("another cluster"), "{error}");
}

#[test]
fn the_demo_ends_well() {
    let (code, stdout, stderr) = run(&["demo"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for step in ["started", "offers", "tags", "noticed", "leaves", "joins late", "done in"] {
        assert!(stdout.contains(step), "{stdout}");
    }
}

#[test]
fn a_file_gives_settings_and_what_is_wrong_in_it_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.toml");
    let file = path.to_str().expect("a plain path");
    std::fs::write(&path, "cluster = \"from-file\"\nname = \"a\"\nzone = \"z\"\n").expect("it is written");
    let (code, _, stderr) = run(&["config", "check", "--config", file]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let mut command = tidings(&["config", "show", "--origin", "--config", file, "--", "--name", "b"]);
    command.env("TIDINGS_ZONE", "y");
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, Some(0), "{stderr}");
    let of = |key: &str| stdout.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
    assert!(of("cluster = \"from-file\"").ends_with("t.toml:1"), "{stdout}");
    assert!(of("name = \"b\"").ends_with("flag --name"), "{stdout}");
    assert!(of("zone = \"y\"").ends_with("environment TIDINGS_ZONE"), "{stdout}");

    std::fs::write(&path, "cluster = \"c\"\nnaem = \"a\"\n").expect("it is written");
    for arguments in [&["config", "check", "--config", file][..], &["node", "--name", "a", "--config", file]] {
        let (code, _, stderr) = run(arguments);
        assert_eq!(code, Some(2));
        assert!(stderr.contains("t.toml:2: unknown key \"naem\"; did you mean \"name\"?"), "{stderr}");
    }
    let (code, _, stderr) = run(&["node", "--config", "/no/such/file.toml"]);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("/no/such/file.toml"), "{stderr}");
}

#[test]
fn a_node_runs_on_what_a_file_says() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.toml");
    let text = "cluster = \"c\"\nname = \"a\"\nbind = \"127.0.0.1:0\"\njoin = [\"127.0.0.1:9\"]\njoin_timeout = \"100ms\"\n\
                output = \"jsonl\"\nlog_format = \"json\"\n";
    std::fs::write(&path, text).expect("it is written");
    let (code, stdout, stderr) = run(&["node", "--config", path.to_str().expect("a plain path")]);
    assert_eq!(code, Some(6), "nobody answered: {stdout} {stderr}");
    assert!(stdout.contains("127.0.0.1:9"), "{stdout}");
}

#[test]
fn a_generated_key_joins_two_nodes_and_is_rotated_by_command() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    let file = file.to_str().unwrap();
    assert_eq!(run(&["keygen", "--output", file]).0, Some(0));
    assert_eq!(run(&["keygen", "--output", file]).0, Some(1), "a key is never overwritten");
    let mut a = Node::start(&node("a", &["--key-file", file]));
    let _b = Node::start(&node("b", &["--key-file", file, "--join", &a.addr]));
    a.until("member_up", |line| line["member"] == "b");

    let keys = a.ask("keys list", "keys");
    let old = keys["keys"][0]["id"].as_u64().unwrap();
    assert_eq!((&keys["keys"][0]["in_use"], &keys["keys"][0]["lacking"]), (&true.into(), &Value::Array(Vec::new())));
    // Of one id, they could not be in one ring.
    let pair = (old == 34).then_some("tdk1_CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgleMz4");
    let keys = a.ask(&format!("keys add {}", pair.unwrap_or(SECOND_KEY)), "keys");
    let new = keys["keys"][1]["id"].as_u64().unwrap();
    let keys = a.ask(&format!("keys use {new}"), "keys");
    assert_eq!(keys["keys"][1]["in_use"], true);
    let keys = a.ask(&format!("keys remove {old}"), "keys");
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    assert_eq!(keys["keys"][0]["lacking"], Value::Array(Vec::new()), "b took it over");
    let refusal = a.ask(&format!("keys remove {new}"), "error");
    assert!(refusal["reason"].as_str().unwrap().contains("in use"), "{refusal}");
}

#[test]
fn a_key_file_that_others_can_read_is_refused_with_code_7() {
    use std::os::unix::fs::PermissionsExt as _;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(file.path(), run(&["keygen"]).1).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, stderr) = run(&node("a", &["--key-file", path]));
    assert_eq!(code, Some(7), "{stderr}");
    assert!(stderr.contains("644") && stderr.contains("--allow-readable-key-file"), "{stderr}");
    let _a = Node::start(&node("a", &["--key-file", path, "--allow-readable-key-file"]));
}

#[test]
fn a_wrong_key_is_refused_with_code_7_and_both_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["ours", "theirs"] {
        assert_eq!(run(&["keygen", "--output", &file(name)]).0, Some(0));
    }
    let a = Node::start(&node("a", &["--key-file", &file("ours")]));
    let theirs = file("theirs");
    let (code, _, stderr) = run(&node("b", &["--key-file", &theirs, "--join", &a.addr, "--join-timeout", "2s"]));
    assert_eq!(code, Some(7), "{stderr}");
    assert!(stderr.contains("cluster key"), "{stderr}");
    let error = a.until("error", |_| true);
    assert!(error["reason"].as_str().unwrap().contains("cluster key"), "{error}");
}
